"""What is said of a row that lacks a field.

In: the names that were looked for and the row's own. Out: one sentence: expected, found, and the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

_SHOWN, _MAX_CHARS = 8, 40


def no_field(wanted: Sequence[str], found: Iterable[object], *, fix: str) -> str:
    """Say that a row has none of the fields `wanted`; of those it has (`found`), the first eight are named."""
    names = [repr(str(name)[:_MAX_CHARS]) for name in islice(found, _SHOWN)]
    return f"no field {' or '.join(map(repr, wanted))}, found {', '.join(names) or 'no fields'}; {fix}"
