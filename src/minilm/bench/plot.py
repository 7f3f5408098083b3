"""The rows of `minilm bench encode` as bars: a chart per workload.

In: what `bench_encode` returns. Out: the bytes of an image in a format of matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from minilm.bench.encode import Row
from minilm.errors import SystemProblem, UsageError

_SUFFIXES = (".svg", ".png", ".pdf")
_BAR_INCHES = 0.28
_OURS, _OTHERS = "#2f6f9f", "#b5b5b5"


def require_plot(option: str, path: Path) -> None:
    """Check that `path` can become a plot.

    Raises:
        UsageError: its suffix is not that of an image.
        SystemProblem: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{option} {path}: expected a name that ends in {', '.join(_SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise SystemProblem(f"{option} needs matplotlib; install it with: pip install 'minilm[plot]'")


def draw_rows(rows: Sequence[Row], *, title: str, suffix: str) -> bytes:
    """The image: longer bars are faster, except in latencies, where shorter ones are."""
    import matplotlib
    from matplotlib.figure import Figure

    workloads = list(dict.fromkeys(row.workload for row in rows))
    sides = list(dict.fromkeys(row.side for row in rows))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        figure = Figure(figsize=(8, len(workloads) * (0.6 + _BAR_INCHES * len(sides))), layout="constrained")
        figure.suptitle(title, fontsize=10)
        for axes, name in zip(figure.subplots(len(workloads), squeeze=False)[:, 0], workloads, strict=True):
            _draw(axes, name, {row.side: row for row in rows if row.workload == name})
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix.lower().removeprefix("."), metadata=_no_date(suffix))
    return buffer.getvalue()


def _draw(axes: object, name: str, by_side: Mapping[str, Row]) -> None:
    """One chart."""
    is_latency = any(row.p50_ms is not None for row in by_side.values())
    values = [row.p50_ms if row.p50_ms is not None else row.tokens_per_second for row in by_side.values()]
    colors = [_OTHERS if side.startswith("sentence-transformers") else _OURS for side in by_side]
    bars = axes.barh(list(by_side), values, color=colors)  # type: ignore[attr-defined]
    axes.bar_label(bars, [f"{value:,.2f} ms" if is_latency else f"{value:,.0f}" for value in values], padding=3)  # type: ignore[attr-defined]
    axes.set_title(f"{name}{'' if is_latency else ', tokens a second'}", loc="left", fontsize=9)  # type: ignore[attr-defined]
    axes.invert_yaxis()  # type: ignore[attr-defined]
    axes.margins(x=0.15)  # type: ignore[attr-defined]
    axes.set_xticks([])  # type: ignore[attr-defined]
    axes.spines[["top", "right", "bottom"]].set_visible(False)  # type: ignore[attr-defined]


def _no_date(suffix: str) -> dict[str, None]:
    """The same numbers give the same bytes."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix.lower(), {})
