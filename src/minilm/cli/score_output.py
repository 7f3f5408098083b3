"""What the score commands print: numbers and tables, aligned for people or as one JSON object.

In: numbers by name, tables as rows. Out: text on standard output. A number that is undefined is NaN, in JSON null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import typer

from minilm.cli.table import aligned

Rows = Sequence[Mapping[str, object]]


def show(
    numbers: Mapping[str, object],
    *,
    as_json: bool,
    blocks: Sequence[str] = (),
    more: Mapping[str, object] | None = None,
) -> None:
    """Print numbers; below them `blocks` of text, or in JSON beside them the values `more`."""
    if as_json:
        typer.echo(json.dumps({name: _defined(value) for name, value in numbers.items()} | dict(more or {})))
        return
    lines = aligned([(name, _cell(value, name)) for name, value in numbers.items()])
    typer.echo("\n\n".join([lines, *blocks]))


def table(rows: Rows) -> str:
    """Rows as aligned text under the names of their columns."""
    return aligned([tuple(rows[0]), *(tuple(map(_cell, row.values())) for row in rows)])


def by_first_cell(rows: Rows) -> dict[str, dict[str, object]]:
    """Rows as JSON: each one by its name, which is its first cell."""
    return {str(next(iter(row.values()))): dict(list(row.items())[1:]) for row in rows}


def _defined(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object, name: str = "") -> str:
    if isinstance(value, float):
        digits = ".6g" if name.endswith("_thresh") else ".4f"
        return f"{value:{digits}}" if math.isfinite(value) else "undefined"
    return f"{value:,}" if isinstance(value, int) else str(value)
