"""`minilm doctor`: what this machine offers, what is installed, what is missing.

In: the facts of `minilm.environment`. Out: a table, or JSON with `--json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

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
    width = max(len(name) for section in report.values() for name in section)
    lines = []
    for heading, section in report.items():
        lines.append(heading)
        lines += [f"  {name:<{width}}  {_plain(value)}" for name, value in section.items()]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
