"""`minilm predict`: run a fine-tuned model over a file.

In: a model folder and a file of texts, pairs, candidates, questions or sentences. Out: one row each with `id`,
`prediction` and, of a classifier, all probabilities, in a format that `minilm score` reads; a run from candidates.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from minilm.cli import completion
from minilm.cli.options import EngineOption, IdColumn, PrecisionOption, ThreadsOption
from minilm.cli.streams import (
    InputFormatOption,
    output_file,
    reject_columns,
    reject_same_file,
    source_of,
    writing_output,
)
from minilm.errors import DataError, UsageError
from minilm.files.row_writer import ROW_SUFFIXES

if TYPE_CHECKING:
    from minilm.files.source import Source
    from minilm.infer.api import LoadedModel
    from minilm.infer.bulk.predict import InputColumns, Prediction

_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of a fine-tuned model, or a name in Hugging Face's cache.")
]
_Input = Annotated[
    str,
    typer.Option(
        "--input",
        metavar="FILE",
        help=".jsonl, .csv, .tsv, .txt with one text per line (each optionally .gz), .parquet; SQuAD also .json; for "
        "tags also .conll, .bio; - for standard input.",
    ),
]
_Output = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="File to write: .jsonl, .csv, .tsv or .parquet; appears only when it is complete; - for JSON lines on "
        "standard output, chunk by chunk.",
    ),
]
_Task = Annotated[
    str | None,
    typer.Option(
        help="A GLUE task (its columns), `squad`, `tokens`, `rerank` or `text`; by default, that of the model.",
        show_default="of the model",
        autocompletion=completion.tasks,
    ),
]
_Text = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column of the text, or of the list of words.", show_default="of the task"),
]
_TextPair = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of the second text.", show_default="of the task")
]
_NullThreshold = Annotated[
    float | None,
    typer.Option(help="SQuAD 2.0: null odds above this mean no answer.", show_default="of the model"),
]
_Postprocess = Annotated[
    Literal["exact", "classic"] | None,
    typer.Option(
        help="SQuAD: `classic` reconstructs the characters of an answer as the original script does.",
        show_default="of the model",
    ),
]


def predict(
    model: _Model,
    *,
    source: _Input,
    output: _Output,
    task: _Task = None,
    text: _Text = None,
    text_pair: _TextPair = None,
    id_column: IdColumn = None,
    null_threshold: _NullThreshold = None,
    postprocess: _Postprocess = None,
    input_format: InputFormatOption = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
) -> None:
    """Predict labels, numbers, scores of pairs, answers or entities for every row of a file, in order.

    A classifier also gives the probability of every label: an object in .jsonl, a column each in tables. A reranker
    scores a query and a text; where rows have a query_id and a doc_id, the output is a run for minilm score retrieval.

    Examples:
      minilm predict runs/cola/model --input dev.jsonl --output predictions.jsonl
      minilm predict runs/reviews/model --input reviews.txt --output predictions.csv
      minilm predict runs/squad/model --task squad --input dev-v2.0.json --output answers.jsonl
      minilm predict runs/reranker/model --input candidates.jsonl --output run.jsonl
      minilm predict runs/ner/model --input test.conll --output entities.jsonl
      zcat reviews.jsonl.gz | minilm predict runs/sst-2/model --input - --output - | head
    """
    from minilm.infer.api import load

    path = source_of("--input", source, input_format)
    target = output_file(output, ROW_SUFFIXES)
    reject_same_file(path, target)
    loaded = load(model, engine=engine, precision=precision, threads=threads)
    given = {"--text": text, "--text-pair": text_pair, "--null-threshold": null_threshold, "--postprocess": postprocess}
    if task == "squad" or (task is None and loaded.head == "span"):
        _reject(given, ("--text", "--text-pair"), "apply to texts, but this model answers questions")
        changed = {"null_threshold": null_threshold, "postprocess": postprocess}
        rows, total = _plan_answers(loaded, path, id_column, changed)
    elif task == "tokens" or (task is None and loaded.head == "tokens"):
        names = ("--text-pair", "--null-threshold", "--postprocess")
        _reject(given, names, "apply to pairs and questions, but this model tags words")
        rows, total = _plan_tags(loaded, path, text, id_column)
    elif task == "rerank" or (task is None and _is_reranker(loaded)):
        _reject(given, ("--null-threshold", "--postprocess"), "apply to questions, but this model ranks texts")
        rows, total = _plan_scores(loaded, path, query=text, text=text_pair, id_column=id_column)
    else:
        _reject(given, ("--null-threshold", "--postprocess"), "apply to questions, but this model labels texts")
        rows, total = _plan(loaded, path, task, text=text, text_pair=text_pair, id_column=id_column)
    if not total:
        raise DataError(f"{path}: found no row, expected at least one")
    written = _write(rows, total, target)
    if target is not None:
        typer.echo(f"{written:,} predictions are in {output}")


def _reject(given: Mapping[str, object], names: Sequence[str], why: str) -> None:
    """Reject options for the other kind of model."""
    found = [name for name in names if given[name] is not None]
    if found:
        raise UsageError(f"{' and '.join(names)} {why}; remove {found[0]}")


def _plan_answers(
    model: LoadedModel, source: Source, id_column: str | None, changed: Mapping[str, object]
) -> tuple[Generator[list[Prediction], None, None], int]:
    """The answers, chunk by chunk, and their number; every question is checked before the first is computed."""
    from dataclasses import replace

    from minilm.infer.bulk.predict import InputColumns, answered, is_official_squad, is_text, read_questions
    from minilm.infer.predictions import require_head
    from minilm.tasks.squad.settings import AnswerSettings

    if is_text(source):
        reject_columns(source, {"--id": id_column})
    require_head(model, "span")
    if id_column and is_official_squad(source):
        raise UsageError(f"--id {id_column}: questions in a .json file have the id `id`; remove --id")
    trained = model.task_or(AnswerSettings())
    settings = replace(trained, **{name: value for name, value in changed.items() if value is not None})  # type: ignore[arg-type]
    questions = read_questions(source, InputColumns(text="question", text_pair="context", id=id_column))
    return answered(model, questions, settings), len(questions)


def _plan_tags(
    model: LoadedModel, source: Source, text: str | None, id_column: str | None
) -> tuple[Generator[list[Prediction], None, None], int]:
    """The entities, chunk by chunk, and the number of texts; every row is checked before the first is computed."""
    from minilm.infer.bulk.predict import read_sentences, tagged
    from minilm.infer.predictions import require_head
    from minilm.tasks.tokens.rows import input_columns, is_lines
    from minilm.tasks.tokens.settings import TokensSettings

    require_head(model, "tokens")
    trained = model.task_or(TokensSettings(name="tokens"))
    columns = (text,) if text else input_columns(trained)
    if is_lines(source):
        reject_columns(source, {"--text": text, "--id": id_column})
    sentences = read_sentences(source, columns, id_column=id_column or trained.id)
    return tagged(model, sentences), len(sentences)


def _is_reranker(model: LoadedModel) -> bool:
    from minilm.tasks.rerank.settings import RerankSettings

    return isinstance(model.task, RerankSettings)


def _plan_scores(
    model: LoadedModel, source: Source, *, query: str | None, text: str | None, id_column: str | None
) -> tuple[Generator[list[Prediction], None, None], int]:
    """The scores, chunk by chunk, and the number of pairs; every row is checked before the first is computed."""
    from minilm.infer.bulk.predict import InputColumns, read_candidates, scored
    from minilm.infer.predictions import require_one_score
    from minilm.tasks.rerank.settings import RerankSettings

    require_one_score(model)
    trained = model.task_or(RerankSettings(name="rerank"))
    columns = InputColumns(text=query or trained.query, text_pair=text or trained.text or "text", id=id_column)
    candidates = read_candidates(source, columns, (trained.query_id, trained.doc_id))
    return scored(model, candidates), len(candidates)


def _plan(
    model: LoadedModel,
    source: Source,
    task: str | None,
    *,
    text: str | None,
    text_pair: str | None,
    id_column: str | None,
) -> tuple[Generator[list[Prediction], None, None], int]:
    """The predictions, chunk by chunk, and their number; every row is checked before the first is computed."""
    from minilm.infer.bulk.predict import InputColumns, classified, is_text, read_text_inputs
    from minilm.infer.predictions import require_head

    if is_text(source):
        reject_columns(source, {"--text": text, "--text-pair": text_pair, "--id": id_column})
    require_head(model, "classification")
    columns = _columns(model, task)
    columns = InputColumns(
        text=text or columns.text,
        text_pair=text_pair or columns.text_pair,
        id=id_column or columns.id,
        official=None if text or text_pair else columns.official,
    )
    texts = read_text_inputs(source, columns)
    return classified(model, texts), len(texts)


def _columns(model: LoadedModel, task: str | None) -> InputColumns:
    """The columns of the GLUE task `task`, else of the task the model was trained for."""
    from minilm.infer.bulk.predict import InputColumns
    from minilm.tasks.text.glue import GLUE, find_glue_task, text_columns
    from minilm.tasks.text.settings import TextSettings

    trained = model.task_or(TextSettings(name="text"))
    known = find_glue_task(task or trained.name)
    official = known.official if known is not None else None
    if task in (None, "text"):
        own = text_columns(trained)
        return InputColumns(text=own.text, text_pair=own.text_pair, id=own.id, official=official)
    if known is None:
        raise UsageError(f"--task is {task!r}; expected squad, tokens, rerank, text, or one of {', '.join(GLUE)}")
    return InputColumns(text=known.columns.text, text_pair=known.columns.text_pair, official=official)


def _write(rows: Generator[list[Prediction], None, None], total: int, output: Path | None) -> int:
    """Write rows as they come, with progress: to standard output, or to a file that appears when it is complete."""
    from minilm.progress import Progress

    written = 0
    with writing_output(output) as write, Progress("predict", unit="rows") as progress, closing(rows):
        progress.begin(total)
        for window in rows:
            write(window)
            written += len(window)
            progress.advance(len(window))
    return written
