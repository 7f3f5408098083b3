"""`minilm compare`: runs beside each other.

In: run folders. Out: tables of their numbers and of what differs in their recipes; a page with curves where asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minilm.cli.streams import require_parent
from minilm.cli.table import aligned
from minilm.errors import UsageError


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, two or more.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with the tables and curves: .html.", show_default="none"),
    ] = None,
) -> None:
    """Compare runs: the last and the best of their numbers, and what differs in their recipes.

    The stages of a chain and the runs of a sweep are compared with each other. Runs may be unfinished, also running.

    Examples:
      minilm compare runs/a runs/b
      minilm compare runs/grid --output grid.html
    """
    if output is not None:
        if output.suffix.lower() != ".html" or output.is_dir():
            raise UsageError(f"--output {output}: expected the name of a file that ends in .html")
        require_parent("--output", output)
    from minilm.compare import number_rows, read_runs, recipe_rows, unfinished_sweeps, write_comparison

    runs = read_runs(folders)
    typer.echo(aligned(number_rows(runs), "<"))
    differing = recipe_rows(runs)
    if len(differing) > 1:
        typer.echo(f"\nwhat differs in the recipes:\n\n{aligned(differing, '<')}")
    else:
        typer.echo("\nthe recipes are the same, except for names and folders")
    for sentence in unfinished_sweeps(folders):
        typer.echo(f"\n{sentence}")
    if output is not None:
        write_comparison(runs, output)
        typer.echo(f"\nwrote {output}")
