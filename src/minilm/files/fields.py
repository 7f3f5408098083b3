"""The fields of a row: the check of a text, lists, and the wording of messages about missing fields and wrong kinds.

In: the expected names and those of the row; a value. Out: the text, the items of a list; words for a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

_SHOWN, _MAX_CHARS = 8, 40
TEXT_LIST = re.compile(r"""\s*\[\s*["'\]]""")
"""How a list of texts begins in a cell, even a damaged one; not how a text with a remark in brackets does."""
NUMBER_LIST = re.compile(r"\s*\[")
"""How a list of numbers, or of anything, begins in a cell."""
_QUOTED = re.compile(r'\s*"\s*\[\s*""')  # a list of texts that a writer of .csv has put into a .tsv

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


def items_in(value: object, *, spelled: re.Pattern[str] | None) -> list[object]:
    """The items of a value that may be a list; any other value is the only item.

    Args:
        value: of a field.
        spelled: how a text begins that must spell a list in JSON, as in a cell of a table; one that begins otherwise
            may spell one. None: a text is a text.

    Raises:
        ValueError: a text must spell a list and does not.
    """
    if isinstance(value, list):
        return list(value)
    if spelled is None or not isinstance(value, str) or not NUMBER_LIST.match(value):
        return [value]
    try:
        return list(json.loads(value))
    except (ValueError, RecursionError):
        if not spelled.match(value):
            return [value]
        example = '["a", "b"]' if spelled is TEXT_LIST else "[1, -0.5]"
        raise ValueError(f"found {value[:_MAX_CHARS]!r}, expected a list in JSON, such as {example}") from None


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


def _items(value: object, column: str, *, in_cell: bool) -> list[object]:
    if in_cell and isinstance(value, str) and _QUOTED.match(value):
        raise ValueError(f"column {column!r} is a list in quotes, as in .csv; a .tsv has it without quotes")
    try:
        return items_in(value, spelled=TEXT_LIST if in_cell else None)
    except ValueError as error:
        raise ValueError(f"column {column!r}: {error}") from None


def no_field(wanted: Sequence[str], found: Iterable[object], *, fix: str) -> str:
    """Say that a row has none of the fields `wanted`, and name the first eight it has (`found`)."""
    names = [repr(str(name)[:_MAX_CHARS]) for name in islice(found, _SHOWN)]
    return f"no field {' or '.join(map(repr, wanted))}, found {', '.join(names) or 'no fields'}; {fix}"
