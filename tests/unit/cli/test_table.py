"""Table columns are aligned to the requested side, and lines do not end with spaces."""

from __future__ import annotations

from minilm.cli.table import aligned


def test_columns_are_aligned_and_lines_end_without_spaces():
    rows = [("", "seeds", "F"), ("long name", "1", "12.5"), ("x", "10", "")]
    assert aligned(rows).split("\n") == ["           seeds     F", "long name      1  12.5", "x             10"]
    assert aligned(rows, "<").split("\n") == ["           seeds  F", "long name  1      12.5", "x          10"]
