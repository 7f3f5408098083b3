"""The rule for lists of texts, the same in `encode`, `classify` and `generate`.

In: whatever the caller passed. Out: its items, one by one, or one `UsageError` with the right way.

A text is rejected as a list of its characters, a table as a list of its column names, a dict as a list of its keys. A
column of numpy, pandas, pyarrow or datasets is as good as a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence, Set

from minilm.errors import UsageError


def items_of(texts: object, what: str) -> Iterator[object]:
    """The items of a container, for the method `what`; those of pyarrow as Python values.

    Raises:
        UsageError: it is no container, or its items are not what the caller means.
    """
    reason = _rejection(texts, what)
    if reason:
        raise UsageError(f"{what} expects a list of texts, {reason}")
    return (item.as_py() if hasattr(item, "as_py") else item for item in iter(texts))  # type: ignore[call-overload]


def strings_of(texts: object, what: str) -> Iterator[str]:
    """The texts of a container, for the method `what`.

    Raises:
        UsageError: as for `items_of`; an item is not a string.
    """
    for number, text in enumerate(items_of(texts, what)):
        if not isinstance(text, str):
            raise UsageError(f"text {number}: found {type(text).__name__}; {what} expects strings")
        yield text


def _rejection(texts: object, what: str) -> str | None:
    """Why `texts` is rejected, and what to pass instead; None if it is not."""
    kind = type(texts).__name__
    if isinstance(texts, str):
        return f"not one string; write {what}([text])"
    if isinstance(texts, bytes | bytearray | memoryview):
        return f"not {kind}; write {what}([data.decode()])"
    if isinstance(texts, Mapping):
        return f"not {kind}, of which only the keys would be read; write {what}(list(texts.values()))"
    if isinstance(texts, Set) and not isinstance(texts, KeysView):
        return f"not {kind}, which has no order; write {what}(sorted(texts)) and keep that list"
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        return f"not {kind}, which is a table; pass one of its columns: {what}(table[COLUMN])"
    if getattr(texts, "ndim", 1) != 1:
        return f"not {kind} of {texts.ndim} dimensions; pass one of its columns, or a list"  # type: ignore[attr-defined]
    if not isinstance(texts, Iterable):
        return f"not {kind}" if texts is not None else "but found None"
    return None


def pair_of(value: object, what: str) -> Sequence[str]:
    """The two texts of the pair `what`; raises UsageError if it is not a pair of texts."""
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(text, str) for text in value):
        raise UsageError(f"{what} is {value!r:.80}; score_pairs expects pairs of two texts, a query and a text")
    return value


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, at most eight."""
    return " | ".join([*names[:8], *(["..."] if len(names) > 8 else [])])
