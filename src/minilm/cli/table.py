"""Rows of cells as aligned text.

In: rows with the same number of texts. Out: a line per row, two spaces between its columns.
"""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], columns: str = "<>") -> str:
    """Align the cells of each column.

    Args:
        rows: at least one; all have the same number of cells.
        columns: `<` (left) or `>` (right) for each column; the last one also applies to the columns that follow.

    Returns:
        The lines, without trailing spaces.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = columns.ljust(len(widths), columns[-1])
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )
