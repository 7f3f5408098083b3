"""`minilm doctor`: what this machine offers, what is installed and what is missing.

In: the facts of `minilm.environment`. Out: a table, or JSON with `--json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Annotated

import typer

from minilm.cli.table import aligned
from minilm.environment import examine


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show versions, CPU features, threads, memory, devices and what is missing.

    Examples:
      minilm doctor
      minilm doctor --json > doctor.json
    """
    report = examine()
    if as_json:
        import json

        typer.echo(json.dumps(report, indent=2))
        return
    typer.echo(as_table(report), nl=False)


def as_table(report: Mapping[str, Mapping[str, object]]) -> str:
    """Lay the facts out in two columns under section headings."""
    facts = [(f"  {name}", _plain(value)) for section in report.values() for name, value in section.items()]
    lines = iter(aligned(facts, "<").split("\n"))
    blocks = ["\n".join([heading, *islice(lines, len(section))]) for heading, section in report.items()]
    return "\n".join(blocks) + "\n"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
