"""`minilm predict`: run a fine-tuned model over a file.

In: a model folder and a file of texts, pairs or questions. Out: one JSON line per row with `id` and `prediction`, as
`minilm score` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel
    from minilm.infer.predict import Columns, Prediction


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a fine-tuned model.")],
    *,
    source: Annotated[
        Path,
        typer.Option(
            "--input", metavar="FILE", help=".jsonl, .csv, .tsv or .parquet, each optionally .gz; SQuAD also .json."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="JSON lines to write; appears when it is complete.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="A GLUE task (its columns), `squad`, or `text`; what the model was trained for if not given.",
            show_default="of the model",
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the text.", show_default="of the task")
    ] = None,
    text_pair: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the second text.", show_default="of the task")
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option("--id", metavar="COLUMN", help="Column of the id.", show_default="id, idx, index or row number"),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="bf16 is faster where the machine computes in it.")
    ] = "fp32",
) -> None:
    """Predict labels, numbers or answers for every row of a file, in its order.

    Examples:
      minilm predict runs/cola/model --input dev.jsonl --output predictions.jsonl
      minilm predict runs/squad/model --task squad --input dev-v2.0.json --output answers.jsonl
    """
    from minilm.infer.api import load

    loaded = load(model, precision=precision)
    rows, total = _plan(loaded, source, task, text=text, text_pair=text_pair, id_column=id_column)
    written = _write(rows, total, output)
    typer.echo(f"{written:,} predictions are in {output}")


def _plan(
    model: LoadedModel,
    source: Path,
    task: str | None,
    *,
    text: str | None,
    text_pair: str | None,
    id_column: str | None,
) -> tuple[Iterator[list[Prediction]], int]:
    """The predictions to come and how many there will be; every row is looked at before the first is computed."""
    from minilm.infer.predict import Columns, answered, classified, read_questions, read_texts
    from minilm.tasks.text_task import OfficialLayout

    if task == "squad" or (task is None and model.head == "span"):
        model.require_head("span")
        return answered(model, read_questions(source)), sum(1 for _ in read_questions(source))
    model.require_head("classification")
    columns = _columns(model, task)
    columns = Columns(
        text=text or columns.text,
        text_pair=text_pair or columns.text_pair,
        id=id_column or columns.id,
        official=OfficialLayout() if text or text_pair else columns.official,
    )
    return classified(model, read_texts(source, columns)), sum(1 for _ in read_texts(source, columns))


def _columns(model: LoadedModel, task: str | None) -> Columns:
    """The columns of the GLUE task that is named, else of the task the model was trained for."""
    from minilm.errors import UsageError
    from minilm.infer.predict import Columns
    from minilm.tasks.glue import GLUE, find_glue_task
    from minilm.tasks.text_task import OfficialLayout

    known = find_glue_task(task or model.task.name)
    official = (known.official if known is not None else None) or OfficialLayout()
    if task in (None, "text"):
        own = model.task
        return Columns(text=own.text, text_pair=own.text_pair, id=own.id, official=official)
    if known is None:
        raise UsageError(f"--task is {task!r}; expected squad, text, or one of {', '.join(GLUE)}")
    return Columns(text=known.columns.text, text_pair=known.columns.text_pair, official=official)


def _write(rows: Iterator[list[Prediction]], total: int, output: Path) -> int:
    """Write as it comes, aside, with progress."""
    import json

    from minilm.atomic import writing_aside
    from minilm.cli.progress import counting

    written = 0
    with writing_aside(output) as file, counting("predict", total) as advance:
        for window in rows:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in window).encode("utf-8"))
            written += len(window)
            advance(len(window))
    return written
