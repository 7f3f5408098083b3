"""Wording for messages about the fields of a row: a missing field, a value of the wrong kind.

In: the expected names and those of the row; a value. Out: text for a message.
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
}


def kind_of(value: object) -> str:
    """Name the kind of a value in JSON terms."""
    return kind_named(type(value))


def kind_named(kind: type) -> str:
    """Name a type in JSON terms."""
    return _KINDS.get(kind, f"a {kind.__name__}")


def no_field(wanted: Sequence[str], found: Iterable[object], *, fix: str) -> str:
    """Say that a row has none of the fields `wanted`, and name the first eight it has (`found`)."""
    names = [repr(str(name)[:_MAX_CHARS]) for name in islice(found, _SHOWN)]
    return f"no field {' or '.join(map(repr, wanted))}, found {', '.join(names) or 'no fields'}; {fix}"
