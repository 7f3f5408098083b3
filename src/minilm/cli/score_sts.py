"""`minilm score sts`: how well similarities of pairs of texts agree with judged ones.

In: two files of numbers, matched by id, or by position where they have none. Out: Spearman and Pearson correlation, as
a table, or one JSON object with `--json`. The command is registered in `score.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli.score_options import AsJson, about, column, warn
from minilm.cli.score_output import show
from minilm.cli.streams import InputFormatOption, sources_of
from minilm.errors import DataError, UsageError

if TYPE_CHECKING:
    from minilm.files.by_id import ValuesInOrder
    from minilm.files.source import Source

_METRICS = ("spearmanr", "pearson")
_IdField = Annotated[str | None, column("id, in both files", "id, idx or index, if both have one")]
_LabelField = Annotated[str | None, column("similarity in the references", "label or score")]


def sts(
    *,
    predictions: Annotated[
        str, typer.Option(metavar="FILE", help="Similarities: one per line, or rows with a prediction or score.")
    ],
    references: Annotated[
        str, typer.Option(metavar="FILE", help="Judged similarities: one per line, or rows with a label or score.")
    ],
    id_field: _IdField = None,
    label_field: _LabelField = None,
    input_format: InputFormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Score similarities of pairs of texts by Spearman and Pearson correlation, times 100, as in the papers.

    Rows are .jsonl, .csv, .tsv or .parquet, or {id: number} as .json; any other file has one number per line; all but
    .parquet may be .gz; - is standard input. Unless both files have ids, numbers belong together by position.

    Examples:
      minilm score sts --predictions cosines.txt --references stsb/test.jsonl

      minilm score sts --predictions p.jsonl --references sick.tsv --id-field pair_ID --label-field relatedness --json
    """
    from minilm.files.by_id import as_score, read_in_order
    from minilm.score.glue import compute_metrics
    from minilm.tasks.text.rows import ID_COLUMNS

    ids = (id_field,) if id_field else ID_COLUMNS
    found, right = sources_of([("--predictions", predictions), ("--references", references)], input_format)
    given = read_in_order(found, as_score, fields=("prediction", "score"), id_fields=ids)
    judged = read_in_order(right, as_score, fields=(label_field,) if label_field else ("label", "score"), id_fields=ids)
    if id_field and (given.ids is None or judged.ids is None):
        raise UsageError(
            f"--id-field {id_field}: {found if given.ids is None else right} has no such column; correct the name, or "
            f"remove the flag to match numbers by position"
        )
    labels, numbers = _aligned(judged, given, (right, found))
    for path, values in ((found, numbers), (right, labels)):
        with about(path):
            _require_different(values)
    show({**compute_metrics(_METRICS, labels, numbers), "total": len(labels)}, as_json=as_json)


def _aligned(
    judged: ValuesInOrder[float], given: ValuesInOrder[float], paths: tuple[Source, Source]
) -> tuple[list[float], list[float]]:
    """The numbers of both sides in the same order: that of the references, by id if both have ids."""
    from minilm.score.glue import Label, align
    from minilm.score.matching import match_ids

    right, found = paths
    if judged.ids is not None and given.ids is not None:
        sides = [
            {name: Label(number=number, named=False) for name, number in zip(side.ids or (), side.values, strict=True)}
            for side in (judged, given)
        ]
        with about(found):
            match = match_ids(judged.ids, given.ids)
            labels, numbers = align(sides[0], sides[1], num_labels=0)
        warn(found, match.extra_finding())
        return labels, numbers
    if len(given.values) != len(judged.values):
        raise DataError(
            f"{found} holds {len(given.values):,} predictions and {right} holds {len(judged.values):,} references; "
            f"expected the same number, since not both have ids: check that the files belong together"
        )
    return list(judged.values), list(given.values)


def _require_different(numbers: Collection[float]) -> None:
    """Raise DataError if all numbers are equal, since then a correlation is undefined."""
    if len(set(numbers)) > 1:
        return
    found = f"a single number, {next(iter(numbers)):g}" if len(numbers) == 1 else f"{len(numbers):,} equal numbers"
    raise DataError(f"found {found}; a correlation needs at least two different ones")
