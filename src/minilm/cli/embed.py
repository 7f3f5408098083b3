"""`minilm embed`: vectors for every row of a file.

In: a model folder and a file of texts. Out: one vector per row, in order, in a format for numpy, for a vector database
or as JSON lines. After a kill the same command resumes the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli.options import EngineOption, IdColumn, ModelArgument, PrecisionOption, ThreadsOption
from minilm.cli.streams import InputFormatOption, output_file, reject_columns, reject_same_file, source_of
from minilm.errors import UsageError
from minilm.model.precision import VectorPrecision

if TYPE_CHECKING:
    from minilm.files.source import Source

_Input = Annotated[
    str,
    typer.Option(
        "--input",
        metavar="FILE",
        help=".jsonl, .csv, .tsv or .txt with one text per line, each optionally .gz; or .parquet; - for standard "
        "input.",
    ),
]
_Output = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="File to write: .npy, .parquet (`id` and `vector`) or .jsonl; appears only when it is complete; - for "
        "JSON lines on standard output, chunk by chunk, which cannot be resumed.",
    ),
]
_Text = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the text.", show_default="text")]
_Role = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Put the model's prompt of this name before each text: query, document or another one that it has.",
        show_default="the model's default prompt, if any",
    ),
]
_Prompt = Annotated[str | None, typer.Option(metavar="TEXT", help="Put this before each text instead; '' for nothing.")]
_Dimensions = Annotated[
    int | None,
    typer.Option(
        metavar="D",
        min=1,
        help="Keep the first D values of each vector, and scale it to length 1 again if the model normalizes.",
        show_default="all",
    ),
]
_Vectors = Annotated[
    VectorPrecision,
    typer.Option(help="Precision of the vectors. int8: 255 steps within the range of each value; binary: its sign."),
]
_Calibrate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="int8: typical texts, whose vectors give the ranges; or NAME.ranges.json of an earlier output.",
        show_default="vector_ranges.json of the model",
    ),
]


def embed(
    model: ModelArgument,
    *,
    source: _Input,
    output: _Output,
    text: _Text = None,
    id_column: IdColumn = None,
    role: _Role = None,
    prompt: _Prompt = None,
    dimensions: _Dimensions = None,
    vectors: _Vectors = "fp32",
    calibrate: _Calibrate = None,
    input_format: InputFormatOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
) -> None:
    """Compute a vector for every row of a file; run it again after a stop, and nothing is computed twice.

    Examples:
      minilm embed embedded --input documents.jsonl --output documents.parquet --role document
      minilm embed embedded --input my.txt --output my.npy --dimensions 128 --vectors int8 --calibrate my.txt
    """
    from minilm.files.vector_writer import VECTOR_SUFFIXES
    from minilm.infer.api import load
    from minilm.infer.bulk.embed import EmbedJob, embed_file
    from minilm.infer.vectors import vector_options

    given = source_of("--input", source, input_format)
    target = output_file(output, VECTOR_SUFFIXES)
    _check(given, target, vectors, calibrate, columns={"--text": text, "--id": id_column})
    loaded = load(model, engine=engine, precision=precision, threads=threads).route(role)
    options = vector_options(loaded, prompt=prompt, role=role, dimensions=dimensions, precision=vectors)
    job = EmbedJob(
        source=given,
        output=target,
        text=text or "text",
        id=id_column,
        options=options,
        calibrate=calibrate,
        precision=precision,
    )
    count = embed_file(loaded, job)
    if target is not None:
        typer.echo(f"{count:,} vectors of {options.dimensions} dimensions are in {output}")


def _check(
    source: Source,
    output: Path | None,
    vectors: VectorPrecision,
    calibrate: Path | None,
    *,
    columns: dict[str, str | None],
) -> None:
    """Raise UsageError for flags that do not fit together."""
    from minilm.files.formats import require_file
    from minilm.files.source import suffix_of
    from minilm.infer.bulk.embed import is_ranges_file

    require_file(source)
    if suffix_of(source) == ".txt":
        reject_columns(source, columns)
    if calibrate is not None:
        require_file(calibrate)
        if vectors != "int8":
            raise UsageError(f"--calibrate {calibrate} gives ranges for --vectors int8, but --vectors is {vectors}")
        if output is None and not is_ranges_file(calibrate):
            raise UsageError(
                f"--calibrate {calibrate}: the ranges of these texts are written beside the output, but --output is -; "
                "name a file, or calibrate with NAME.ranges.json of an earlier output"
            )
    reject_same_file(source, output)
