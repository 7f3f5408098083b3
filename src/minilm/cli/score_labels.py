"""`minilm score text`: labels or numbers of a user's own texts.

In: predictions and references, matched by id. Out: for labels every number of a classification (accuracy, precision,
recall, F1, Matthews, confusion matrix), for numbers their correlations; as a table, or one JSON object with `--json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, cast

import typer

from minilm.cli.score_options import AsJson, TaskRecipe, about, column, listed_names, task_section, warn
from minilm.cli.score_output import by_first_cell, show, table
from minilm.cli.streams import InputFormatOption, sources_of
from minilm.errors import DataError
from minilm.tally import Tally

if TYPE_CHECKING:
    from minilm.files.source import Source
    from minilm.score.classification import LabelCounts
    from minilm.tasks.text.rows import TextTask

_Value = str | int | float | tuple[str, ...] | tuple[int, ...]
_Labels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Labels, separated by commas; of two, the second is the positive one.",
        show_default="those in the files, sorted",
    ),
]
_IdField = Annotated[str | None, column("id", "id, idx, index or row number")]
_LabelField = Annotated[str | None, column("label in the references", "label")]


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """References and predictions by id, both as numbers of `labels` (sets of them if multi-label) or as numbers."""

    task: TextTask
    references: Mapping[str, _Value]
    predictions: Mapping[str, _Value]


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """The numbers to print: single ones, and for labels the counts behind the averages, and two tables."""

    numbers: Mapping[str, float | str]
    counts: LabelCounts | None = None
    labels: Sequence[Mapping[str, object]] = ()
    confusion: Sequence[Mapping[str, object]] = ()


def text(
    *,
    predictions: Annotated[str, typer.Option(metavar="FILE", help="Rows with an id and prediction, or {id: label}.")],
    references: Annotated[
        str, typer.Option(metavar="FILE", help="Labeled rows; without an id column they are numbered from 0.")
    ],
    task: TaskRecipe = None,
    labels: _Labels = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="A text has any number of labels.")] = False,
    regression: Annotated[bool, typer.Option("--regression", help="Predictions are numbers.")] = False,
    id_field: _IdField = None,
    label_field: _LabelField = None,
    input_format: InputFormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Score predicted labels or numbers for your own texts; every number is times 100, as in the papers.

    Files are .jsonl, .csv, .tsv (each optionally .gz) or .parquet; - is standard input. A missing prediction counts
    as wrong. What `minilm predict` writes for the same file is read as it is.

    Examples:
      minilm score text --predictions predictions.csv --references dev.csv --task own.yaml

      minilm score text --predictions p.jsonl --references dev.parquet --labels bad,good --label-field stars --json
    """
    from minilm.score.matching import match_ids

    given, right = sources_of([("--predictions", predictions), ("--references", references)], input_format)
    spec = (
        _own_task(labels, multi_label=multi_label, regression=regression)
        if task is None
        else _task_of(task, {"--labels": labels, "--multi-label": multi_label, "--regression": regression})
    )
    spec = replace(
        spec, columns=replace(spec.columns, label=label_field or spec.columns.label, id=id_field or spec.columns.id)
    )
    pairs = _read(given, right, spec)
    with about(given):
        match = match_ids(pairs.references, pairs.predictions)
        if _is_regression(pairs.task):
            match.require_all()
    warn(given, match.missing_finding(), match.extra_finding())
    _show(_scores(pairs), as_json=as_json)


def _own_task(labels: str | None, *, multi_label: bool, regression: bool) -> TextTask:
    """The task that the flags describe."""
    from minilm.tasks.text.glue import text_task
    from minilm.tasks.text.settings import TextSettings

    names = listed_names(labels)
    return text_task(TextSettings(name="text", labels=names, multi_label=multi_label, regression=regression))


def _task_of(recipe: str, flags: Mapping[str, str | bool | None]) -> TextTask:
    """The task of a recipe, which the `flags` would contradict or repeat."""
    from minilm.recipe import TextSection
    from minilm.tasks.text.glue import text_task

    return text_task(task_section(recipe, TextSection, flags))


def _is_regression(task: TextTask) -> bool:
    from minilm.tasks.text.glue import REGRESSION

    return task.metrics == REGRESSION


def _read(predictions: Source, references: Source, task: TextTask) -> _Pairs:
    """Read both sides; labels that the task does not list are those of the two files."""
    from minilm.files.by_id import read_by_id
    from minilm.tasks.text.rows import ID_COLUMNS, read_rows_and_labels, read_text_rows

    ids = (*filter(None, [task.columns.id]), *ID_COLUMNS)
    tally = Tally()
    parse = _parser(task, predictions, tally)
    given = read_by_id(predictions, parse, fields=("prediction",), id_fields=ids, allow_equal_repeats=True)
    tally.report()
    if task.labels or _is_regression(task):
        rows = read_text_rows(references, task, with_texts=False)
    else:
        texts = {text: str(predictions) for value in given.values() for text in _texts(value)}
        task, rows = read_rows_and_labels([references], task, also=texts, with_texts=False)
        if not task.labels:
            raise DataError(f"{references}: no row has a label, nor has a prediction; list the labels with --labels")
        given = {name: _numbered(value, task) for name, value in given.items()}
    right = {row.id: row.labels if task.multi_label else cast("float", row.label) for row in rows}
    return _Pairs(task=task, references=right, predictions=given)


def _parser(task: TextTask, path: Source, tally: Tally) -> Callable[[object], _Value]:
    """Reads a prediction: as number(s) of labels, as text(s) if the labels are not known yet, or as a number."""
    from minilm.files.by_id import as_number
    from minilm.tasks.text.labels import label_number, label_numbers, label_text, listed_labels
    from minilm.tasks.text.rows import how_read

    def parse(value: object) -> _Value:
        if task.multi_label:
            return label_numbers(value, task.labels) if task.labels else tuple(listed_labels(value))
        if isinstance(value, list):
            raise ValueError("found a list, expected a label; for several labels per text, add --multi-label")
        if not task.labels:
            return label_text(value)
        number = int(label_number(value, task.labels))
        if (name := label_text(value)) not in task.labels:
            tally.add(how_read(name, task.labels), [f"{path}: label {name!r}"])
        return number

    return as_number if _is_regression(task) else parse


def _texts(value: _Value) -> tuple[str, ...]:
    return cast("tuple[str, ...]", value if isinstance(value, tuple) else (value,))


def _numbered(value: _Value, task: TextTask) -> _Value:
    numbers = tuple(task.labels.index(text) for text in _texts(value))
    return numbers if task.multi_label else numbers[0]


def _scores(pairs: _Pairs) -> _Scores:
    from minilm.score.classification import NO_PREDICTION
    from minilm.score.glue import compute_metrics

    right = list(pairs.references.values())
    found = [pairs.predictions.get(name, NO_PREDICTION) for name in pairs.references]
    if pairs.task.multi_label:
        return _scores_of_sets(pairs.task.labels, right, found)
    if _is_regression(pairs.task):
        numbers = compute_metrics(pairs.task.metrics, cast("list[float]", right), cast("list[float]", found))
        return _Scores(numbers={**numbers, "total": len(right)})
    return _scores_of_labels(pairs.task.labels, cast("list[int]", right), cast("list[int]", found))


def _scores_of_labels(names: Sequence[str], right: Sequence[int], found: Sequence[int]) -> _Scores:
    from minilm.score.classification import (
        POSITIVE,
        confusion_matrix,
        confusion_rows,
        counts_of_labels,
        label_rows,
        metric_names,
    )
    from minilm.score.glue import compute_metrics

    counts = counts_of_labels(right, found, len(names))
    metrics = compute_metrics(metric_names(len(names)), right, found)
    positive = {"positive": names[POSITIVE]} if "f1" in metrics else {}
    return _Scores(
        numbers={**metrics, **positive, "total": len(right)},
        counts=counts,
        labels=label_rows(names, counts),
        confusion=confusion_rows(names, confusion_matrix(right, found, len(names))),
    )


def _scores_of_sets(names: Sequence[str], right: Sequence[_Value], found: Sequence[_Value]) -> _Scores:
    import numpy as np

    from minilm.score.classification import counts_of_sets, label_rows

    def flags(sets: Sequence[_Value]) -> np.typing.NDArray[np.bool_]:
        flags_BC = np.zeros((len(sets), len(names)), dtype=np.bool_)
        for index, numbers in enumerate(sets):
            flags_BC[index, np.array(numbers if isinstance(numbers, tuple) else (), dtype=np.int64)] = True
        return flags_BC

    right_BC, found_BC = flags(right), flags(found)
    has_prediction_B = np.array([isinstance(numbers, tuple) for numbers in found])
    counts = counts_of_sets(right_BC, found_BC)
    accuracy = 100.0 * float(((right_BC == found_BC).all(1) & has_prediction_B).mean())
    return _Scores(numbers={"accuracy": accuracy, "total": len(right)}, counts=counts, labels=label_rows(names, counts))


def _show(scores: _Scores, *, as_json: bool) -> None:
    from minilm.score.classification import MAX_CONFUSION_LABELS, average_metrics, average_rows

    blocks: list[str] = []
    averages: Mapping[str, float] = {}
    if scores.counts is not None:
        averages = average_metrics(scores.counts)
        blocks.append(table([*scores.labels, *average_rows(scores.counts)]))
    if len(scores.confusion) > MAX_CONFUSION_LABELS:
        blocks.append(f"the confusion matrix of {len(scores.confusion)} labels is only in the output of --json")
    elif scores.confusion:
        blocks.append(table(scores.confusion))
    tables = {"labels": scores.labels, "confusion_matrix": scores.confusion}
    more = {name: by_first_cell(rows) for name, rows in tables.items() if rows}
    show(scores.numbers, as_json=as_json, blocks=blocks, more={**averages, **more})
