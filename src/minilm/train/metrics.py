"""`metrics.jsonl`: one line per logged step; incomplete lines are ignored.

In: the metrics of the steps since the last line. Out: their means, appended; the rows, read back.

Numbers that are not finite are written as null: JSON has no NaN.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from minilm.files.atomic import atomic_write, reporting_writes
from minilm.files.json import with_nulls

_FILE = "metrics.jsonl"

Row = Mapping[str, float]


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of a run's `metrics.jsonl`; a line truncated by a kill or a full disk is ignored."""
    file = folder / _FILE
    rows: list[dict[str, float]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def keep_metrics(folder: Path, *, up_to: int) -> None:
    """Drop the rows after step `up_to`, which the run will write again.

    Raises:
        SystemProblem: the file cannot be written.
    """
    rows = [row for row in read_metrics(folder) if row["step"] <= up_to]
    atomic_write(folder / _FILE, "".join(json.dumps(row) + "\n" for row in rows))


def append_metrics(folder: Path, row: Row) -> None:
    """Append one row.

    Raises:
        SystemProblem: the file cannot be written.
    """
    with reporting_writes(folder / _FILE), (folder / _FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(with_nulls(row)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Mean of each metric over the rows in which it is finite; NaN if it never is."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row[name] for row in rows if name in row and math.isfinite(row[name])] for name in names}
    return {name: math.fsum(values) / len(values) if values else math.nan for name, values in found.items()}


def restored(row: object) -> dict[str, float]:
    """A row that `with_nulls` made storable as JSON: NaN in place of null."""
    values = cast("Mapping[str, float | None]", row)
    return {name: math.nan if value is None else value for name, value in values.items()}
