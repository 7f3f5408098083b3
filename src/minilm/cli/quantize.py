"""`minilm quantize`: make a model int8, if that is as good as fp32 and not slower.

In: a model folder, and texts or labeled files. Out: a folder for `--precision int8`; the table of the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli.options import FieldOption, ThreadsOption
from minilm.cli.streams import InputFormatOption, sources_of
from minilm.errors import UsageError

if TYPE_CHECKING:
    from minilm.export.gate import Measure

_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model folder, `embedded`, or a name in Hugging Face's cache.")
]
_Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; appears only if the gate passes.")]
_Texts = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Texts like those the model will read: .txt with one per line, .jsonl, .csv, .tsv (each optionally .gz), "
        ".parquet; - for standard input.",
        show_default="about 150 that ship",
    ),
]
_Labelled = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="Labeled rows of the model's task, whose score must not drop; may be repeated."),
]


def quantize(
    model: _Model,
    *,
    out: _Out,
    texts: _Texts = None,
    field: FieldOption = "text",
    labelled: _Labelled = None,
    input_format: InputFormatOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Write a copy of a model that also runs in int8, after comparing it with fp32 on this machine.

    Half of the texts calibrate, the other half is compared; maps that int8 hurts most stay as they are if the quality
    asks for it. If it is still outside the tolerance, or slower than fp32, the command fails and writes nothing.

    Examples:
      minilm quantize embedded --out models/int8
      minilm quantize runs/reviews/model --texts reviews.txt --labelled dev.csv --out runs/reviews/int8
    """
    from minilm.export.gate import GateFailed
    from minilm.export.quantize import quantize as write_int8

    named = [*([] if texts is None else [("--texts", texts)]), *(("--labelled", one) for one in labelled or ())]
    if not named and input_format is not None:
        raise UsageError(f"--input-format {input_format} is for standard input: add --texts -, or remove it")
    sources = sources_of(named, input_format)
    given = None if texts is None else sources[0]
    rest = sources if texts is None else sources[1:]
    try:
        found = write_int8(model, out, texts=given, field=field, labelled=rest, threads=threads)
    except GateFailed as failed:
        typer.echo(_table(failed.measures))
        raise
    typer.echo(f"{found.calibrated} texts calibrated, {found.compared} others were compared")
    typer.echo(_table(found.measures))
    if found.kept:
        typer.echo(f"not int8, of {found.num_maps} maps: {', '.join(found.kept)}")
    typer.echo(f"{out} has the scales; load it with --precision int8")


def _table(measures: Sequence[Measure]) -> str:
    from minilm.cli.table import aligned

    return aligned([["int8 against fp32", "found", "expected", ""], *(one.row() for one in measures)], "<><<")
