"""What rows of lists have in common, for vectors and for rerankers: columns of negatives, the scores of the texts.

In: the fields of a row; the value of one. Out: the columns to look for; the numbers of the value, or a ValueError
that names the column, which the reader completes with file and line. And the check of the scores of all lists, which
the loss learns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError
from minilm.files.by_id import as_score
from minilm.files.fields import NUMBER_LIST, items_in
from minilm.tasks.settings import NEGATIVES
from minilm.tasks.trainable import trainable

_NUMBERED = re.compile("negative_[0-9]+")


def columns_of_negatives(columns: Iterable[str]) -> tuple[str, ...]:
    """The usual names, then those of `columns` that are numbered, by number; `negative_1` if none is.

    sentence-transformers calls them `negative_1`, `negative_2` and so on in n-tuples.
    """
    numbered = [name for name in columns if _NUMBERED.fullmatch(name)] or ["negative_1"]
    return (*NEGATIVES, *sorted(numbered, key=lambda name: int(name.rpartition("_")[2])))


def scores_in(value: object, column: str, *, texts: int, order: str) -> list[float]:
    """The numbers of a field, one for each of `texts` texts; a list may be spelled in JSON.

    Args:
        value: of the field.
        column: its name.
        texts: how many numbers are expected.
        order: which score comes first, for messages.

    Raises:
        ValueError: an item is not a finite number or too large, or there is another number of them.
    """
    try:
        numbers = [trainable(as_score(item)) for item in items_in(value, spelled=NUMBER_LIST)]
    except ValueError as error:
        raise ValueError(f"column {column!r}: {error}") from None
    if len(numbers) != texts:
        found = f"{len(numbers)} number{'s' * (len(numbers) != 1)} for {texts} text{'s' * (texts != 1)}"
        raise ValueError(f"column {column!r} has {found}, expected one for each{order}")
    return numbers


def require_differences(scores: NDArray[np.float32], starts: NDArray[np.int64], *, first: str) -> None:
    """Require two different scores in some list: losses that compare the texts of a list learn differences.

    Args:
        scores: of all lists, one after the other, at least one.
        starts: where each list begins in them, and their end.
        first: the location of the first list.

    Raises:
        DataError: the scores of each list are equal.
    """
    if (scores == np.repeat(scores[starts[:-1]], np.diff(starts))).all():
        raise DataError(
            f"in each of the {len(starts) - 1:,} training lists all texts have the same score, expected a list with at "
            f"least two different ones (first: {first})"
        )


def scored_twice(column: str, teacher: str) -> str:
    """Why rows with scores are not scored by a teacher."""
    return (
        f"found column {column!r} and task.teacher {teacher}, expected one source of scores; set task.teacher to null "
        "to learn those of the rows, or remove the column to learn the teacher's (minilm mine --no-scores writes none)"
    )
