"""Reads a label: by name or number if the task has labels, otherwise as a number to predict.

In: a value from a file (text, number, true or false). Out: the number of the label, or the number to predict.
A ValueError says what was found and what was expected; the reader of the file adds the location.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from unicodedata import normalize

from minilm.errors import DataError, UsageError
from minilm.files.by_id import as_number
from minilm.files.fields import kind_of
from minilm.score.glue import matching_label, parse_label
from minilm.tasks.trainable import trainable

MOST_LABELS = 1000
"""With more distinct labels, the column is probably the wrong one, or holds numbers to predict."""
_FLAGS = {"0": False, "false": False, "1": True, "true": True}
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def label_text(value: object, *, expected: str = "a label") -> str:
    """Return a label as text: 1 and 1.0 become `1`, true becomes `true`.

    Args:
        value: the label.
        expected: what it should be, for the message.

    Raises:
        ValueError: the label is empty, null, a list, an object, or not a finite number.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"found {value}, expected {expected}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None or value == "" or not isinstance(value, (str, int, float)):
        kind = "an empty text" if value == "" else kind_of(value)
        raise ValueError(f"found {kind}, expected {expected}")
    return str(value)


def label_number(
    value: object, labels: Sequence[str], *, label_range: tuple[float, float] | None = None
) -> int | float:
    """Read one label.

    Args:
        value: a name in `labels`, in any case, or its number, counted from 0; if names are themselves numbers (stars 1
            to 5), only a name. For regression a finite number, also as text.
        labels: names in id order; empty for regression.
        label_range: smallest and largest number of a regression task.

    Raises:
        ValueError: `value` is none of these.
    """
    if not labels:
        return _number(value, label_range)
    text = label_text(value)
    known = matching_label(text, labels)
    if known is not None:
        return known
    if any(_WHOLE.fullmatch(name) for name in labels):
        raise ValueError(f"found label {text!r:.60}, expected one of {', '.join(labels)}")
    return int(parse_label(value, labels).number)


def listed_labels(value: object) -> list[str]:
    """The labels of a multi-label row as texts.

    Raises:
        ValueError: `value` is not a list of labels, or a label occurs twice.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError(
            f"found {kind_of(value)}, expected a list of labels; if each label has its own column of 0 and 1, "
            f"list these columns in task.labels"
        )
    texts = [label_text(one) for one in value]
    if repeated := [text for text in texts if texts.count(text) > 1]:
        raise ValueError(f"found label {repeated[0]!r:.60} twice in a list; expected names, not a vector of 0 and 1")
    return texts


def label_numbers(value: object, labels: Sequence[str]) -> tuple[int, ...]:
    """Read the labels of a multi-label row: a list of names or numbers in `labels`, maybe empty; sorted.

    Raises:
        ValueError: `value` is something else, or may be a vector of 0 and 1, one for each label.
    """
    texts = listed_labels(value)
    assert isinstance(value, (list, tuple))
    if value and len(value) == len(labels) and all(not isinstance(one, str) and one in (0, 1) for one in value):
        raise ValueError(f"found {list(value)}, which may be numbers of labels or a vector of 0 and 1; write names")
    return tuple(sorted({int(label_number(text, labels)) for text in texts}))


def is_flag(value: object) -> bool:
    """Whether a value may be that of a label in a column of its own."""
    return not isinstance(value, (list, dict)) and value not in (None, "") and label_text(value) in (*_FLAGS, "-1")


def flagged_labels(values: Sequence[object]) -> tuple[int, ...] | None:
    """The numbers of the labels whose column is 1; None if all columns are -1, which means no label.

    Raises:
        ValueError: a value is not 0 or 1.
    """
    texts = [label_text(value) for value in values]
    if set(texts) == {"-1"}:
        return None
    if wrong := [text for text in texts if text not in _FLAGS]:
        raise ValueError(f"found {wrong[0]!r:.60}, expected 0 or 1")
    return tuple(number for number, text in enumerate(texts) if _FLAGS[text])


def _number(value: object, label_range: tuple[float, float] | None) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    number = trainable(as_number(value))
    if label_range is not None and not label_range[0] <= number <= label_range[1]:
        raise ValueError(f"found {number:g}, expected a number from {label_range[0]:g} to {label_range[1]:g}")
    return number


def sorted_labels(locations: Mapping[str, str]) -> tuple[str, ...]:
    """Sort the labels found in files, each with its location: whole numbers by value, else as text.

    Raises:
        UsageError: they look like numbers to predict, or there are too many.
        DataError: two differ only in case, spaces or the form of their letters, such as True and true.
    """
    alike: dict[str, str] = {}
    for text, location in locations.items():
        other = alike.setdefault(normalize("NFC", text).strip().casefold(), text)
        if other != text:
            raise DataError(
                f"{location}: found label {text!r:.60} and elsewhere {other!r:.60}, which differ only in case, spaces "
                f"or the form of their letters: make them agree, or if they are two labels list all in task.labels "
                f"(score text: --labels)"
            )
        if _NUMBER.fullmatch(text) and not _WHOLE.fullmatch(text):
            raise UsageError(
                f"{location}: found label {text!r:.60}, a number with decimals: to predict numbers set task.regression "
                f"to true, else list the labels in task.labels (score text: --regression, --labels)"
            )
    if len(locations) > MOST_LABELS:
        text, location = list(locations.items())[MOST_LABELS]
        raise UsageError(
            f"{location}: found {len(locations):,} different labels, expected at most {MOST_LABELS:,}: set "
            f"task.label to another column, task.regression to true, or list the labels in task.labels (score text: "
            f"--label-field, --regression, --labels)"
        )
    whole = all(map(_WHOLE.fullmatch, locations))
    return tuple(sorted(locations, key=lambda text: (int(text) if whole else 0, text)))
