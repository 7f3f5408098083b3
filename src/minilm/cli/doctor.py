"""`minilm doctor`: what this machine offers, what is installed and what is missing.

In: the facts of `minilm.environment` and of the compiled kernels. Out: a table, or JSON with `--json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Annotated

import typer

from minilm.cli.table import aligned
from minilm.environment import examine
from minilm.kernels.library import facts as facts_of_kernels


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show versions, CPU features, compiled kernels, threads, memory, devices and what is missing.

    Examples:
      minilm doctor
      minilm doctor --json > doctor.json
    """
    report = examine()
    report["kernels"] = facts_of_kernels()
    if as_json:
        import json

        typer.echo(json.dumps(report, indent=2))
        return
    typer.echo(as_table(report), nl=False)


def as_table(report: Mapping[str, Mapping[str, object]]) -> str:
    """Lay the facts out in two columns under section headings."""
    sections = {
        heading: [row for fact in section.items() for row in _rows(*fact)] for heading, section in report.items()
    }
    lines = iter(aligned([row for rows in sections.values() for row in rows], "<").split("\n"))
    blocks = ["\n".join([heading, *islice(lines, len(rows))]) for heading, rows in sections.items()]
    return "\n".join(blocks) + "\n"


def _rows(name: str, value: object) -> list[tuple[str, str]]:
    """A row for each line of the value, the first one with the name."""
    first, *more = _plain(value).split("\n")
    return [(f"  {name}", first), *(("", line) for line in more)]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
