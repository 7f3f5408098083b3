"""What rows of lists have in common, for vectors and for rerankers: texts and scores, one or several in a field.

In: the value of a field. Out: its texts, its numbers; a ValueError that names the column, which the reader completes
with file and line. And the check of the scores of all lists, which the loss learns.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError
from minilm.files.by_id import as_score
from minilm.files.fields import NUMBER_LIST, TEXT_LIST, as_text, items_in, kind_of
from minilm.tasks.learned import learned

_QUOTED = re.compile(r'\s*"\s*\[\s*""')  # a list of texts that a writer of .csv has put into a .tsv


def is_list(value: object, column: str, *, in_cell: bool) -> bool:
    """Whether a field holds a list of texts; arguments and errors as for `texts_in`."""
    return _items(value, column, in_cell=in_cell) != [value]


def text_in(value: object, column: str, *, in_cell: bool) -> str:
    """The only text of a field; arguments and errors as for `texts_in`, and a list is an error."""
    if is_list(value, column, in_cell=in_cell):
        raise ValueError(f"column {column!r} is {kind_of([])}, expected a string")
    return texts_in(value, column, in_cell=in_cell)[0]


def texts_in(value: object, column: str, *, in_cell: bool) -> list[str]:
    """The text of a field, or those of a list, which may be empty.

    Args:
        value: of the field.
        column: its name.
        in_cell: the value is a cell of .csv or .tsv, where a list is spelled in JSON.

    Raises:
        ValueError: an item is not a text, or an empty one; or a cell begins like a list and is none.
    """
    items = _items(value, column, in_cell=in_cell)
    has = f"column {column!r} {'has' if len(items) > 1 else 'is'}"
    texts = [as_text(item, has) for item in items]
    if not all(text.strip() for text in texts):
        raise ValueError(f"{has} an empty text")
    return texts


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
        numbers = [learned(as_score(item)) for item in items_in(value, spelled=NUMBER_LIST)]
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


def _items(value: object, column: str, *, in_cell: bool) -> list[object]:
    if in_cell and isinstance(value, str) and _QUOTED.match(value):
        raise ValueError(f"column {column!r} is a list in quotes, as in .csv; a .tsv has it without quotes")
    try:
        return items_in(value, spelled=TEXT_LIST if in_cell else None)
    except ValueError as error:
        raise ValueError(f"column {column!r}: {error}") from None
