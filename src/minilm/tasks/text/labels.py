"""Reads a label: by name or number if the task has labels, otherwise as a number to predict.

In: a value from a file (text, number, true or false). Out: the number of the label, or the number to predict.
A ValueError says what was found and what was expected; the reader of the file adds the location.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from minilm.errors import UsageError
from minilm.files.by_id import as_number
from minilm.files.fields import kind_of
from minilm.score.glue import matching_label, parse_label

MOST_LABELS = 1000
"""With more distinct labels, the column is probably the wrong one, or holds numbers to predict."""
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def label_text(value: object) -> str:
    """Return a label as text: 1 and 1.0 become `1`, true becomes `true`.

    Raises:
        ValueError: the label is empty, null, a list or an object.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None or value == "" or not isinstance(value, (str, int, float)):
        kind = "an empty text" if value == "" else kind_of(value)
        raise ValueError(f"found {kind}, expected a label")
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


def _number(value: object, label_range: tuple[float, float] | None) -> float:
    number = as_number(float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else value)
    if label_range is not None and not label_range[0] <= number <= label_range[1]:
        raise ValueError(f"found {number:g}, expected a number from {label_range[0]:g} to {label_range[1]:g}")
    return number


def sorted_labels(locations: Mapping[str, str]) -> tuple[str, ...]:
    """Sort the labels found in files, each with its location: whole numbers by value, else as text.

    Raises:
        UsageError: they look like numbers to predict, or there are too many.
    """
    for text, location in locations.items():
        if _NUMBER.fullmatch(text) and not _WHOLE.fullmatch(text):
            raise UsageError(
                f"{location}: found label {text!r:.60}, a number with decimals: to predict numbers set task.regression "
                f"to true, else list the labels in task.labels"
            )
    if len(locations) > MOST_LABELS:
        text, location = list(locations.items())[MOST_LABELS]
        raise UsageError(
            f"{location}: found {len(locations):,} different labels, expected at most {MOST_LABELS:,}: set "
            f"task.label to another column, task.regression to true, or list the labels in task.labels"
        )
    whole = all(map(_WHOLE.fullmatch, locations))
    return tuple(sorted(locations, key=lambda text: (int(text) if whole else 0, text)))
