"""`minilm score`: compare predictions with references, as in the papers.

In: two files matched by id. Out: a small table, or one JSON object with `--json`; ids without a counterpart are
reported on stderr. `minilm.files` and `minilm.tasks` read the files, `minilm.score` computes the numbers.
A user's own labels are scored by `score_labels.py`, tags of words by `score_tokens.py`, generated texts, matched by
position, by `score_text.py`, similarities by `score_sts.py`, rankings by `score_retrieval.py`; `score_output.py` prints
the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli import completion
from minilm.cli.score_labels import text
from minilm.cli.score_options import AsJson, about, column, warn
from minilm.cli.score_output import show
from minilm.cli.score_retrieval import retrieval
from minilm.cli.score_sts import sts
from minilm.cli.score_text import qg, rouge
from minilm.cli.score_tokens import tokens
from minilm.cli.streams import InputFormatOption, sources_of
from minilm.errors import UsageError
from minilm.files.source import suffix_of

if TYPE_CHECKING:
    from minilm.files.source import Source
    from minilm.score.glue import Label

app = typer.Typer(name="score", help="Compare predictions with references.", no_args_is_help=True)
app.command()(text)
app.command()(tokens)
app.command()(rouge)
app.command()(qg)
app.command()(sts)
app.command()(retrieval)

_OFFICIAL_THRESHOLD = 1.0
_Task = Annotated[
    str,
    typer.Option(
        metavar="TASK",
        help="cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte or wnli.",
        autocompletion=completion.glue_tasks,
    ),
]
_NaProb = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="How sure the model is that there is no answer: {id: number}, or rows with id and na_prob "
        "or null_odds. Adds best_exact and best_f1.",
        show_default="none",
    ),
]
_NaProbThresh = Annotated[
    float, typer.Option(metavar="X", help="A na_prob above this means no answer (for null odds: 0).")
]
_IdField = Annotated[str | None, column("id, in both files", "id or idx")]
_LabelField = Annotated[str | None, column("label in the references", "label or score")]


@app.command()
def squad(
    *,
    predictions: Annotated[
        str, typer.Option(metavar="FILE", help="{id: text} as .json, or rows with id and prediction.")
    ],
    references: Annotated[
        str,
        typer.Option(metavar="FILE", help="SQuAD as official .json, or .jsonl or .parquet with id and answers."),
    ],
    na_prob: _NaProb = None,
    na_prob_thresh: _NaProbThresh = _OFFICIAL_THRESHOLD,
    input_format: InputFormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Score answers to SQuAD questions, v1.1 or v2.0, as the official script does.

    Rows are .jsonl, .csv, .tsv or .parquet; all but .parquet may be .gz; - is standard input. A question without a
    prediction counts as wrong. An id may occur twice only with equal predictions.

    Examples:
      minilm score squad --predictions predictions.json --references dev-v2.0.json

      minilm score squad --predictions p.jsonl --references dev.jsonl.gz --na-prob null_odds.json --na-prob-thresh 0
    """
    from minilm.files.by_id import as_number, read_by_id
    from minilm.files.fields import as_text
    from minilm.score.matching import match_ids
    from minilm.score.squad import squad_metrics
    from minilm.tasks.squad.read import read_squad_references

    if math.isnan(na_prob_thresh):
        raise UsageError("--na-prob-thresh nan: expected a number")
    if na_prob is None and na_prob_thresh != _OFFICIAL_THRESHOLD:
        raise UsageError(
            f"--na-prob-thresh {na_prob_thresh:g} has nothing to be compared to: add --na-prob FILE, or remove it"
        )
    more = [] if na_prob is None else [("--na-prob", na_prob)]
    given, right, *odds = sources_of(
        [("--predictions", predictions), ("--references", references), *more], input_format
    )
    questions = read_squad_references(right)
    ids = [one.id for one in questions]
    answers = read_by_id(given, as_text, fields=("prediction",), allow_equal_repeats=True)
    with about(given):
        match = match_ids(ids, answers)
    warn(given, match.missing_finding(), match.extra_finding())
    na_probs = None
    for source in odds:
        na_probs = read_by_id(source, as_number, fields=("na_prob", "null_odds"), allow_equal_repeats=True)
        with about(source):
            warn(source, match_ids(ids, na_probs, what="na_prob").extra_finding())
    with about(odds[0] if odds else given):
        metrics = squad_metrics(questions, answers, na_probs=na_probs, na_prob_threshold=na_prob_thresh)
    show(metrics, as_json=as_json)


@app.command()
def glue(
    *,
    task: _Task,
    predictions: Annotated[
        str, typer.Option(metavar="FILE", help="Rows with an id and prediction, or {id: label} as .json.")
    ],
    references: Annotated[
        str,
        typer.Option(metavar="FILE", help="Rows with an id and a label, {id: label} as .json, or the official .tsv."),
    ],
    id_field: _IdField = None,
    label_field: _LabelField = None,
    input_format: InputFormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Score the predictions for a GLUE task; every metric is times 100, as in the papers.

    Rows are .jsonl, .csv or .parquet (predictions also .tsv); all but .parquet may be .gz; - is standard input. Labels
    are names or numbers. A missing prediction counts as wrong; sts-b needs all. An id may occur twice only with equal
    predictions.

    Examples:
      minilm score glue --task cola --predictions predictions.jsonl --references dev.jsonl.gz

      minilm score glue --task mnli --predictions p.jsonl --references dev.jsonl --label-field gold_label --json
    """
    from minilm.files.by_id import ID_FIELDS, as_number, read_by_id
    from minilm.score.glue import Label, align, compute_metrics, glue_task, parse_label
    from minilm.score.matching import match_ids
    from minilm.tasks.text.glue import glue_text_task
    from minilm.tasks.text.labels import label_number

    scored = glue_task(task)

    def parse(value: object) -> Label:
        return parse_label(value, scored.labels) if scored.labels else Label(number=as_number(value), named=False)

    def parse_reference(value: object) -> Label:
        number = None if scored.labels else label_number(value, (), label_range=glue_text_task(task).label_range)
        return parse(value) if number is None else Label(number=number, named=False)

    fields = (label_field,) if label_field else ("label", "score")
    ids = (id_field,) if id_field else ID_FIELDS
    found, expected = sources_of([("--predictions", predictions), ("--references", references)], input_format)
    if suffix_of(expected) == ".tsv":
        if id_field or label_field:
            raise UsageError(f"{references}: a .tsv is read as published: remove --id-field and --label-field")
        right = _published(expected, task)
    else:
        right = read_by_id(expected, parse_reference, fields=fields, id_fields=ids)
    given = read_by_id(found, parse, fields=("prediction",), id_fields=ids, allow_equal_repeats=True)
    with about(found):
        match = match_ids(right, given)
        labels, predicted = align(right, given, num_labels=len(scored.labels))
    warn(found, match.missing_finding(), match.extra_finding(), _mixture(right, given, scored.labels))
    show(compute_metrics(scored.metrics, labels, predicted), as_json=as_json)


def _published(path: Source, task: str) -> dict[str, Label]:
    """The labels of a file in the official layout, with the ids that `minilm predict` gives its rows."""
    from minilm.score.glue import Label, parse_label
    from minilm.tasks.text.glue import glue_text_task
    from minilm.tasks.text.rows import read_text_rows

    spec = glue_text_task(task)
    numbers = {row.id: row.label or 0 for row in read_text_rows(path, spec)}
    if not spec.labels:
        return {name: Label(number=number, named=False) for name, number in numbers.items()}
    return {name: parse_label(spec.labels[int(number)], spec.labels) for name, number in numbers.items()}


def _mixture(right: Mapping[str, Label], given: Mapping[str, Label], names: Sequence[str]) -> str:
    """How numbers were read, if there are both names and numbers; the user may number the labels differently."""
    if len({label.named for side in (right, given) for label in side.values()}) < 2:
        return ""
    order = ", ".join(f"{number} is {name}" for number, name in enumerate(names))
    return f"some labels in predictions and references are names and some are numbers; read as: {order}"
