"""Proves that one rule for lists of texts holds in `encode`, `classify` and `generate`: columns work, traps do not."""

from __future__ import annotations

from collections import ChainMap, Counter, OrderedDict, UserDict, deque

import numpy as np
import pytest

from minilm.errors import UsageError
from minilm.infer.containers import strings_of
from minilm.infer.sources import generation_sources

pandas = pytest.importorskip("pandas")
pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")

TEXTS = ["b", "a", "c"]
TABLE = {"text": TEXTS, "other": TEXTS}


def _generate(texts):
    return [source.parts[0] for source in generation_sources(texts)]


METHODS = {
    "encode": lambda texts: list(strings_of(texts, "encode")),
    "classify": lambda texts: list(strings_of(texts, "classify")),
    "generate": _generate,
}


@pytest.fixture(params=METHODS)
def what(request):
    return request.param


@pytest.mark.parametrize(
    "texts",
    [
        tuple(TEXTS),
        deque(TEXTS),
        dict.fromkeys(TEXTS).keys(),
        dict(enumerate(TEXTS)).values(),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pandas.Series(TEXTS, index=[5, 6, 7]),
        pandas.Series(TEXTS, dtype="category"),
        pandas.Series(TEXTS, dtype="string[pyarrow]"),
        pandas.Index(TEXTS),
        pandas.DataFrame(TABLE)["text"],
        pyarrow.array(TEXTS),
        pyarrow.array(TEXTS, type=pyarrow.large_string()),
        pyarrow.array(TEXTS).dictionary_encode(),
        pyarrow.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pyarrow.table(TABLE)["text"],
        datasets.Dataset.from_dict(TABLE)["text"],
        datasets.Dataset.from_dict(TABLE).to_iterable_dataset()["text"],
    ],
    ids=lambda texts: type(texts).__module__ + "." + type(texts).__name__,
)
def test_columns_of_every_library_are_lists(what, texts):
    assert METHODS[what](texts) == TEXTS


def test_streams_are_lists(what):
    assert METHODS[what](iter(TEXTS)) == METHODS[what](text for text in TEXTS) == TEXTS


_KEYS = "of which only the keys would be read; write {what}(list(texts.values()))"
_ORDER = "which has no order; write {what}(sorted(texts)) and keep that list"
_COLUMN = "which is a table; pass one of its columns: {what}(table[COLUMN])"


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ("a b", "not one string; write {what}([text])"),
        (np.str_("a b"), "not one string; write {what}([text])"),
        (b"a", "not bytes; write {what}([data.decode()])"),
        (bytearray(b"a"), "not bytearray; write {what}([data.decode()])"),
        (memoryview(b"a"), "not memoryview; write {what}([data.decode()])"),
        (None, "but found None"),
        (3, "not int"),
        (np.array("a"), "not ndarray of 0 dimensions; pass one of its columns, or a list"),
        (np.array([TEXTS]), "not ndarray of 2 dimensions; pass one of its columns, or a list"),
        ({"a": 1}, f"not dict, {_KEYS}"),
        (Counter(TEXTS), f"not Counter, {_KEYS}"),
        (OrderedDict(a=1), f"not OrderedDict, {_KEYS}"),
        (ChainMap({"a": 1}), f"not ChainMap, {_KEYS}"),
        (UserDict({"a": 1}), f"not UserDict, {_KEYS}"),
        (set(TEXTS), f"not set, {_ORDER}"),
        (frozenset(TEXTS), f"not frozenset, {_ORDER}"),
        ({"a": "b"}.items(), f"not dict_items, {_ORDER}"),
        (pandas.DataFrame(TABLE), f"not DataFrame, {_COLUMN}"),
        (pyarrow.table(TABLE), f"not Table, {_COLUMN}"),
        (pyarrow.RecordBatch.from_pydict(TABLE), f"not RecordBatch, {_COLUMN}"),
        (datasets.Dataset.from_dict(TABLE), f"not Dataset, {_COLUMN}"),
        (datasets.Dataset.from_dict(TABLE).to_iterable_dataset(), f"not IterableDataset, {_COLUMN}"),
        (datasets.DatasetDict(train=datasets.Dataset.from_dict(TABLE)), f"not DatasetDict, {_KEYS}"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_other_containers_are_rejected_with_the_right_way(what, texts, reason):
    with pytest.raises(UsageError) as caught:
        METHODS[what](texts)
    assert str(caught.value) == f"{what} expects a list of texts, {reason.format(what=what)}"


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["a", None], "NoneType"),
        (pandas.Series(["a", float("nan")], dtype=object), "float"),
        (pyarrow.array(["a", None]), "NoneType"),
        (np.array(["a", b"b"], dtype=object), "bytes"),
        (["a", {"b": 1}], "dict"),
    ],
)
def test_missing_values_and_other_items_are_rejected_with_their_number(what, texts, kind):
    with pytest.raises(UsageError, match=f"^text 1: found {kind}; {what} expects "):
        METHODS[what](texts)


def test_lists_of_tokens_are_sources_of_generation():
    assert _generate(pyarrow.array([["a", "##b"], ["c"]])) == [["a", "##b"], ["c"]]
    assert _generate([("a", "##b"), "c"]) == [["a", "##b"], "c"]
