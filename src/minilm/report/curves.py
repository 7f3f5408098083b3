"""Curves over steps as inline SVG whose colors follow the page, light or dark.

In: named curves. Out: one `<svg>` element, or None if matplotlib is not installed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

# matplotlib needs literal colors; these are replaced by the page's variables afterwards.
_INK = "#010203"
_GRID = "#040506"
_LINES = tuple(f"#0708{index:02x}" for index in range(6))
_AXES = (0.1, 0.17, 0.89, 0.8)  # left, bottom, width, height; a layout engine would draw everything twice
_STYLES = ("-", "--", ":", "-.")  # the next one when the colors are used up


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: shown in the legend.
        steps: x of each point.
        values: y of each point, finite.
        stride: number of measured points per drawn point.
        reference_for: name of the curve that this one is a reference for; it is drawn behind that, in its color.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    stride: int = 1
    reference_for: str = ""


def draw(
    curves: Sequence[Curve], *, x_label: str = "step", log: bool = False, marks: Sequence[float] = ()
) -> str | None:
    """Draw curves into one chart over `x_label`.

    Args:
        curves: the lines.
        x_label: label of the x axis.
        log: logarithmic y axis; values that are not positive are left out.
        marks: places on the x axis that get a vertical line.

    Returns:
        an `<svg>` that uses the CSS variables --soft, --line and --c0 to --c5; None without matplotlib.
    """
    if find_spec("matplotlib") is None:
        return None
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": curves[0].name,
        "font.size": 10,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.2, 2.9))
        axes = figure.add_axes(_AXES)
        names = [curve.name for curve in curves]
        for index, curve in enumerate(curves):
            axes.plot(curve.steps, curve.values, label=curve.name, **_look(curve, index, names))
        for mark in marks:
            axes.axvline(mark, color=_INK, linewidth=0.8, linestyle=":")
        if log:
            axes.set_yscale("log", nonpositive="mask")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x_label, color=_INK)
        axes.tick_params(colors=_INK, length=0)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_GRID)
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor=_INK)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _follow_the_page(buffer.getvalue())


def _look(curve: Curve, index: int, names: Sequence[str]) -> dict[str, Any]:
    """Color and style of line number `index` of a chart."""
    is_reference = curve.reference_for in names
    index = names.index(curve.reference_for) if is_reference else index
    return {
        "color": _LINES[index % len(_LINES)],
        "linestyle": _STYLES[index // len(_LINES) % len(_STYLES)],
        "marker": "o" if len(curve.steps) == 1 else None,
        "linewidth": 5.0 if is_reference else 1.6,
        "alpha": 0.3 if is_reference else 1.0,
        "zorder": 1.5 if is_reference else 2.0,
    }


def _follow_the_page(svg: str) -> str:
    """Drop the XML header and use the colors and font of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: inherit", svg)
    for index, color in enumerate(_LINES):
        svg = svg.replace(color, f"var(--c{index})")
    return svg.replace(_INK, "var(--soft)").replace(_GRID, "var(--line)")
