"""`minilm generate`: text from text, for every row of a file.

In: a model folder with a trained mlm head and a file of sources. Out: one row or one text line per source, in order.
After a kill the same command resumes the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli.options import EngineOption, PrecisionOption, ThreadsOption, with_flags
from minilm.cli.streams import InputFormatOption, output_file, reject_columns, source_of
from minilm.decode.settings import GenerationSettings
from minilm.errors import UsageError
from minilm.files.checked import from_options
from minilm.files.row_writer import ROW_SUFFIXES, TEXT_SUFFIX
from minilm.files.source import Source

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel
    from minilm.model.precision import Precision

_Fields = Annotated[
    list[str] | None,
    typer.Option(
        help="Column of the source; repeat it for parts to be joined by [SEP].",
        show_default="of the model, else src",
    ),
]
_Input = Annotated[
    str,
    typer.Option(
        "--input",
        metavar="FILE",
        help=".jsonl, .csv, .tsv or one text per line, each optionally .gz; or .parquet; - for standard input.",
    ),
]
_Output = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="File to write: .jsonl, .csv, .tsv, .parquet, or .txt; appears only when it is complete; - for JSON lines "
        "on standard output, chunk by chunk, which cannot be resumed.",
    ),
]
_Traces = Annotated[
    Path | None, typer.Option(metavar="FILE", help=".safetensors or .jsonl for the score traces of the search.")
]


@with_flags(GenerationSettings)
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model fine-tuned on seq2seq.")],
    *,
    source: _Input,
    output: _Output,
    field: _Fields = None,
    traces: _Traces = None,
    input_format: InputFormatOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    **options: object,
) -> None:
    """Generate a target for every source of a file; run it again after a stop, and nothing is computed twice.

    Examples:
      minilm generate runs/xsum/model --input test.jsonl --output summaries.jsonl --length-penalty 0.9
      minilm generate runs/qg/model --input rows.jsonl --field passage --field answer --output questions.txt
    """
    from minilm.infer.api import load

    settings = from_options(GenerationSettings, {**options, "traces": traces is not None})
    given = source_of("--input", source, input_format)
    target = output_file(output, (*ROW_SUFFIXES, TEXT_SUFFIX))
    _check(given, target, traces, n_best=settings.n_best, fields=field)
    loaded = load(model, engine=engine, precision=precision, threads=threads)
    written = _run(loaded, given, target, traces, settings, fields=field, precision=precision)
    if target is not None:
        typer.echo(f"{written:,} targets are in {output}")


def _run(
    loaded: LoadedModel,
    source: Source,
    output: Path | None,
    traces: Path | None,
    settings: GenerationSettings,
    *,
    fields: Sequence[str] | None,
    precision: Precision,
) -> int:
    """Generate a target for every source."""
    from minilm.infer.bulk.generate import GenerationJob, generate_file, read_sources
    from minilm.infer.generate import generation_of
    from minilm.model.metadata import model_checksums
    from minilm.tasks.seq2seq.settings import PairSettings

    columns = list(fields or loaded.task_or(PairSettings()).source)
    generation = generation_of(loaded, settings)
    job = GenerationJob(
        sources=read_sources(source, columns),
        output=output,
        as_lines=output is not None and output.suffix.lower() == TEXT_SUFFIX,
        traces=traces,
        identity={"model": model_checksums(loaded.folder), "precision": precision, "fields": columns},
    )
    return generate_file(generation, job)


def _check(
    source: Source, output: Path | None, traces: Path | None, *, n_best: int, fields: Sequence[str] | None
) -> None:
    """Raise UsageError for flags that do not fit together."""
    from minilm.decode.traces import require_trace_name
    from minilm.files.formats import require_file
    from minilm.files.rows import is_table

    require_file(source)
    if output is not None and output.suffix.lower() == TEXT_SUFFIX and n_best > 1:
        raise UsageError(
            f"--n-best is {n_best}, but each line of {output} holds one target; use .jsonl, .csv, .tsv or .parquet"
        )
    if fields and not is_table(source):
        reject_columns(source, {"--field": fields[0]})
    if traces is not None:
        if output is None:
            raise UsageError(f"--traces {traces} needs the targets in a file: name one in --output")
        require_trace_name(traces, "--traces")
    paths = [path.resolve() for path in (source, output, traces) if isinstance(path, Path)]
    if len(set(paths)) < len(paths):
        raise UsageError("--input, --output and --traces name the same file twice; use different files")
