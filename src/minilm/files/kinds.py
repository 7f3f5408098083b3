"""Whether a value is of the kind that a dataclass's annotation names: for settings from Python and from `task.json`.

In: a value, an annotation as written. Out: yes or no; true and false are no numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real

_TYPES: Mapping[str, type] = {"bool": bool, "int": Integral, "float": Real, "str": str, "None": type(None)}


def of_kind(value: object, annotation: str) -> bool:
    """Whether `value` fits `annotation`: names such as `int` or `str` with ` | ` between them, or `Sequence[str]`.

    A sequence is a list or tuple with at least one text.
    """
    if annotation == "Sequence[str]":
        return isinstance(value, list | tuple) and bool(value) and all(isinstance(part, str) for part in value)
    names = annotation.split(" | ")
    if isinstance(value, bool):
        return "bool" in names
    return any(isinstance(value, _TYPES[name]) for name in names)
