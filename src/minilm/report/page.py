"""The report of a run: one self-contained HTML file.

In: a title, rows of results, rows of metrics over steps, notes, examples.
Out: `report.html` with a table, curves as inline SVG (drawn when matplotlib is installed), heat maps and examples.
`page.html.j2` holds the HTML and escapes everything that comes from the run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from minilm.files.atomic import atomic_write
from minilm.report.curves import Curve, draw
from minilm.report.heatmap import HeatMap, draw_map

# Chart title -> the metrics it shows, by name or by "<student>." plus name.
_CHARTS: Mapping[str, tuple[str, ...]] = {
    "Loss": ("loss", "heldout_loss"),
    "Gradient norm": ("gradient_norm",),
    "Learning rate": ("learning_rate",),
    "Tokens per second": ("tokens_per_second",),
}
_MAX_POINTS = 1000
_NO_PLOT = "No curves: matplotlib is not installed. To draw them, run: pip install 'minilm[plot]', then run again"

_TEMPLATES = Environment(
    loader=PackageLoader("minilm", "report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column of a table; numbers are right-aligned."""

    name: str
    is_number: bool


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table of texts with a heading; omitted if it has no columns."""

    heading: str
    columns: Sequence[_Column]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A drawn chart."""

    caption: str
    svg: str


def write_report(
    folder: Path,
    *,
    title: str,
    table: Sequence[Mapping[str, object]],
    metrics: Sequence[Mapping[str, float]],
    notes: Sequence[str],
    name: str = "report.html",
    scores: Sequence[str] = (),
    tables: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
    plots: Mapping[str, Sequence[Curve]] | None = None,
    behind: Mapping[str, Sequence[Curve]] | None = None,
    maps: Sequence[HeatMap] = (),
    examples: Sequence[Mapping[str, str]] = (),
    log_axes: Collection[str] = (),
    marks: Sequence[int] = (),
) -> None:
    """Write a page, usually `folder/report.html`.

    Args:
        folder: an existing folder.
        title: heading of the page.
        table: rows of results; the columns are the keys, in the order they first appear.
        metrics: rows with a `step` and any of loss, heldout_loss, gradient_norm, learning_rate, tokens_per_second,
            each also as `<student>.loss` and so on; other keys are not drawn.
        notes: sentences for the reader, one per list item.
        name: of the file.
        scores: additional keys of `metrics`, drawn in one chart.
        tables: additional tables by title.
        plots: additional curves by title; the text after the last " over " of the title labels the x axis.
        behind: curves that are added to a chart, by its title, if it has others.
        maps: heat maps, below the charts.
        examples: mappings of a few named texts, such as an input and an output.
        log_axes: titles of the charts whose y axis is logarithmic.
        marks: steps that get a vertical line in every chart over steps.

    Raises:
        SystemProblem: the file cannot be written.
    """
    scored = {**_CHARTS, "Held-out scores": tuple(scores)}
    charts = {heading: _chart_curves(metrics, names) for heading, names in scored.items()} | dict(plots or {})
    shown = {heading: [*curves, *(behind or {}).get(heading, ())] for heading, curves in charts.items() if curves}
    figures = _figures(shown, log_axes, marks)
    page = _TEMPLATES.get_template("page.html.j2").render(
        title=title,
        results=_table("Results", table),
        figures=figures,
        no_plot=_NO_PLOT if figures is None else "",
        maps=[_Figure(caption=one.title, svg=draw_map(one)) for one in maps],
        tables=[_table(heading, rows) for heading, rows in (tables or {}).items()],
        examples=examples,
        notes=notes,
    )
    atomic_write(folder / name, page.encode("utf-8", "replace"))


def _table(heading: str, rows: Sequence[Mapping[str, object]]) -> _Table:
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = [
        _Column(name=name, is_number=all(_is_number(row[name]) for row in rows if row.get(name) is not None))
        for name in names
    ]
    return _Table(heading=heading, columns=columns, rows=[[_text(row.get(name)) for name in names] for row in rows])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 and math.isfinite(value) else f"{value:.4g}"
    return str(value)


def _figures(
    charts: Mapping[str, Sequence[Curve]], log_axes: Collection[str], marks: Sequence[int]
) -> list[_Figure] | None:
    """Draw the charts; None if matplotlib is not installed."""
    figures = []
    for title, curves in charts.items():
        x_label = title.rpartition(" over ")[2] if " over " in title else "step"
        svg = draw(curves, x_label=x_label, log=title in log_axes, marks=marks if x_label == "step" else ())
        if svg is None:
            return None
        scale = ", logarithmic" if title in log_axes else ""
        figures.append(_Figure(caption=f"{title}{scale}{_thinned(curves)}", svg=svg))
    return figures


def _thinned(curves: Sequence[Curve]) -> str:
    stride = max(curve.stride for curve in curves)
    return f" (one of every {stride} points is drawn)" if stride > 1 else ""


def _chart_curves(metrics: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[Curve]:
    keys = dict.fromkeys(key for row in metrics for key in row if key.rpartition(".")[2] in names)
    return curves_of(metrics, keys)


def duration(seconds: float) -> str:
    """A time for a reader: `38 s`, `5 min 12 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def curves_of(metrics: Sequence[Mapping[str, float]], keys: Iterable[str]) -> list[Curve]:
    """One curve for each key of `metrics` that has points."""
    curves = (_curve(metrics, key) for key in keys)
    return [curve for curve in curves if curve.steps]


def _curve(metrics: Sequence[Mapping[str, float]], key: str) -> Curve:
    rows = [(row["step"], row[key]) for row in metrics if _is_number(row.get(key)) and "step" in row]
    return curve_of(key, rows)


def curve_of(name: str, points: Sequence[tuple[float | None, float | None]]) -> Curve:
    """A curve through the finite `points` (x, y), thinned to a visible number of points.

    In JSON, None stands for a number that is not finite.
    """
    known = [(x, y) for x, y in points if x is not None and y is not None]
    finite = [(x, y) for x, y in known if math.isfinite(x) and math.isfinite(y)]
    stride = max(1, math.ceil(len(finite) / _MAX_POINTS))
    drawn = finite[::stride]
    return Curve(name=name, steps=[x for x, _ in drawn], values=[y for _, y in drawn], stride=stride)
