"""A table of shares as colored cells, as inline SVG whose colors follow the page, light or dark.

In: shares from 0 to 1 with the names of rows and columns. Out: one `<svg>` element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _ROW, _GAP, _TEXT = 720, 64, 16, 6, 11
_LEVELS = 20  # shades; cells of one shade are one path
_MAX_ROWS = 24
_MAX_LABELS = 16  # of columns


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A table of shares.

    Attributes:
        title: caption.
        columns: what the columns are called together, and the name of each.
        rows: the same of the rows.
        values: a share of each row and column; NaN leaves its cell empty.
    """

    title: str
    columns: tuple[str, Sequence[str]]
    rows: tuple[str, Sequence[str]]
    values: Sequence[Sequence[float]]


def draw_map(shown: HeatMap) -> str:
    """Draw a cell per share, darker where it is larger; of many rows some, with the first and the last."""
    names = shown.columns[1]
    rows = _spread(len(shown.rows[1]), _MAX_ROWS)
    cell = (_WIDTH - _LEFT) / len(names)
    top = 2 * _ROW + _GAP
    height = top + _ROW * len(rows) + _ROW + 2 * _GAP
    parts = [_text(_LEFT, _ROW - _GAP, shown.columns[0]), _text(0, top - _GAP, shown.rows[0])]
    parts += [
        _text(_LEFT + (column + 0.5) * cell, top - _GAP, names[column], anchor="middle")
        for column in _spread(len(names), _MAX_LABELS)
    ]
    levels: dict[int, list[str]] = {}
    for place, row in enumerate(rows):
        y = top + place * _ROW
        parts.append(_text(_LEFT - _GAP, y + _ROW - 4, shown.rows[1][row], anchor="end"))
        for column, value in enumerate(shown.values[row]):
            if math.isfinite(value):
                level = round(min(max(value, 0.0), 1.0) * _LEVELS)
                levels.setdefault(level, []).append(_square(_LEFT + column * cell, y, cell))
    parts += [_path(level, squares) for level, squares in sorted(levels.items())]
    parts += _legend(height - _GAP)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" font-size="{_TEXT}" fill="var(--soft)">{"".join(parts)}</svg>'
    )


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, evenly, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _square(x: float, y: float, width: float) -> str:
    return f"M{x:.1f} {y:g}h{width - 1:.1f}v{_ROW - 1}h-{width - 1:.1f}z"


def _path(level: int, squares: Sequence[str]) -> str:
    """Cells of one shade; the lightest has an outline, so that an empty cell differs from a share of 0."""
    look: Mapping[str, str] = {"fill": "var(--c0)", "fill-opacity": f"{level / _LEVELS:.2f}", "stroke": "var(--line)"}
    written = " ".join(f'{name}="{value}"' for name, value in look.items())
    return f'<path {written} stroke-width=".5" d="{"".join(squares)}"/>'


def _legend(y: float) -> list[str]:
    """Which shade is which share."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    parts = []
    for place, share in enumerate(shares):
        x = _LEFT + place * 64.0
        parts.append(_path(round(share * _LEVELS), [_square(x, y - _ROW + 4, 20)]))
        parts.append(_text(x + 24, y, f"{share:.0%}"))
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
