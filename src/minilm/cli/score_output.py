"""What the score commands print: numbers and tables, aligned for people or as one JSON object.

In: numbers by name, tables as rows, numbers with their signatures and intervals. Out: text on standard output. A
number that is undefined is NaN, in JSON null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import typer

from minilm.cli.table import aligned

Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Numbers to print, each with the signature that states how it was computed.

    Attributes:
        values: by metric; NaN if there is none.
        counts: of what was scored, for JSON.
        signatures: by metric.
        intervals: by metric; empty if not requested.
        parts: by column, more numbers for each metric.
    """

    values: Mapping[str, float]
    counts: Mapping[str, int]
    signatures: Mapping[str, str]
    intervals: Mapping[str, tuple[float, float]]
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


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


def show_report(report: Report, *, as_json: bool) -> None:
    """Print numbers with their signatures and intervals."""
    typer.echo(_report_json(report) if as_json else _report_table(report))


def _report_json(report: Report) -> str:
    found: dict[str, object] = {name: None if math.isnan(value) else value for name, value in report.values.items()}
    for part, values in report.parts.items():
        found |= {f"{name}_{part}": value for name, value in values.items()}
    found |= report.counts
    if report.intervals:
        found["confidence"] = {name: list(ends) for name, ends in report.intervals.items()}
    signatures = dict(report.signatures)
    for part in report.parts:
        signatures |= {f"{name}_{part}": signature for name, signature in report.signatures.items()}
    return json.dumps({**found, "signature": signatures})


def _report_table(report: Report) -> str:
    """A line for each metric, then the signatures."""
    head = ["", "F" if report.parts else "score", *report.parts, *(["95% interval"] if report.intervals else [])]
    rows = [head]
    for name, value in report.values.items():
        row = [name, "none" if math.isnan(value) else f"{value:.4f}"]
        row += [f"{values[name]:.4f}" for values in report.parts.values()]
        if name in report.intervals:
            row.append("{:.4f} to {:.4f}".format(*report.intervals[name]))
        rows.append(row + [""] * (len(head) - len(row)))
    names: dict[str, list[str]] = {}
    for name, signature in report.signatures.items():
        names.setdefault(signature, []).append(name)
    signatures = [f"{', '.join(those)}: {signature}" for signature, those in names.items()]
    return "\n".join([aligned(rows), "", *signatures])
