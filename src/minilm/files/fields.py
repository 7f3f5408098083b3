"""The fields of a row: the check of a text, and the wording of messages about missing fields and wrong kinds.

In: the expected names and those of the row; a value. Out: the text; words for a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

_SHOWN, _MAX_CHARS = 8, 40

_KINDS: Mapping[type, str] = {
    dict: "an object",
    tuple: "an object",  # kept as pairs
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
    bytes: "bytes that are not UTF-8",  # others are read as text
}


def kind_of(value: object) -> str:
    """Name the kind of a value in JSON terms."""
    return kind_named(type(value))


def kind_named(kind: type) -> str:
    """Name a type in JSON terms."""
    return _KINDS.get(kind, kind.__name__)


def as_text(value: object, what: str = "found") -> str:
    """Return a text; `what` begins the message, for example "field 'text' is".

    Raises:
        ValueError: the value is not a string.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} {kind_of(value)}, expected a string")
    return value


def no_field(wanted: Sequence[str], found: Iterable[object], *, fix: str) -> str:
    """Say that a row has none of the fields `wanted`, and name the first eight it has (`found`)."""
    names = [repr(str(name)[:_MAX_CHARS]) for name in islice(found, _SHOWN)]
    return f"no field {' or '.join(map(repr, wanted))}, found {', '.join(names) or 'no fields'}; {fix}"
