"""`minilm quickstart`: the whole path with what is installed, offline, ending in two tables.

In: nothing, or the user's text files. Out: the tables on stdout; run folders and `summary.json` under `--out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli.table import aligned

if TYPE_CHECKING:
    from minilm.quickstart.run import Row
    from minilm.quickstart.text import QuickstartText
    from minilm.quickstart.vectors import VectorsRow


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for run folders and summary.json.")] = Path("runs/quickstart"),
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Your own text (.txt, .jsonl, .csv, each optionally .gz, or .parquet); accepts several files.",
            show_default="docstrings and manual of this Python",
        ),
    ] = None,
    more_text: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="More text files.", show_default=False)
    ] = None,
) -> None:
    """Distill a 3-layer student from a real MiniLM, fine-tune both on one task, and compare; then their text vectors.

    Takes minutes on two CPU cores, offline. Needs the extras hf and embedded.

    Examples:
      minilm quickstart
      minilm quickstart --out runs/mine --text notes/*.txt
    """
    from minilm.quickstart.run import quickstart as run
    from minilm.quickstart.text import installed_text, text_of_files
    from minilm.train.allocator import keep_freed_memory

    files = [*(text or []), *(more_text or [])]
    material = text_of_files(files) if files else installed_text()
    with suppress(BrokenPipeError):  # nobody reads this; the work is done nevertheless
        typer.echo(_describe(material))
    keep_freed_memory()
    tables = run(material, out)
    typer.echo(_table(tables.rows))
    typer.echo(_vectors_table(tables.vectors))
    typer.echo(f"everything is in {out} (summary.json, report.html, run folders)")


def _describe(material: QuickstartText) -> str:
    """A description of the text and the task: source, question, classes and counts."""
    return (
        f"text: {material.source}; {len(material.unlabelled):,} paragraphs for distillation\n"
        f"task: {material.question} {len(material.labels)} classes ({', '.join(material.labels)}), "
        f"{len(material.train):,} paragraphs to train on, {len(material.heldout):,} held out"
    )


def _table(rows: Sequence[Row]) -> str:
    """The comparison on the task, as plain text in columns."""
    heading = ("", "parameters", "MB", "sentences/s", "held-out loss", "accuracy")
    lines = [heading] + [
        (
            row.name,
            f"{row.parameters / 1e6:.1f} M",
            f"{row.megabytes:.1f}",
            f"{row.sentences_per_second:,.0f}",
            f"{max(row.heldout_loss, 0.0):.3f}",
            f"{row.accuracy:.1%}",
        )
        for row in rows
    ]
    return f"\n{aligned(lines)}\n"


def _vectors_table(rows: Sequence[VectorsRow]) -> str:
    """Agreement with the teacher's text vectors, and texts per second; a dash where nothing was measured."""
    heading = ("text vectors", "parameters", "rank correlation", "top-10 overlap")
    speeds = ("texts/s fp32", "texts/s int8", "sentence-transformers")
    lines = [(*heading, *speeds)] + [
        (
            row.name,
            f"{row.parameters / 1e6:.1f} M",
            f"{row.correlation:.3f}",
            f"{row.nearest:.1%}",
            *("-" if speed is None else f"{speed:,.0f}" for speed in (row.fp32, row.int8, row.sentence_transformers)),
        )
        for row in rows
    ]
    return f"{aligned(lines)}\n"
