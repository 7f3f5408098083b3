"""Chunks of a stream of texts: within both limits, in order, and never more than one long row at a time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.infer.bulk import embed as bulk
from minilm.infer.bulk.embed import TextToEmbed, chunks_of
from minilm.infer.bulk.seen_ids import SeenIds


@pytest.fixture
def rows():
    def make(lengths):
        return [TextToEmbed(id=str(n), text="x" * length, location="") for n, length in enumerate(lengths)]

    return make


@given(st.lists(st.integers(0, 40), max_size=60))
def test_chunks_keep_order_and_limits(lengths):
    """Holds for all lengths: the memory of a chunk is that of 25 characters or of its only row, and of seven rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "TEXTS_PER_CHUNK", 7)
        patch.setattr(bulk, "CHARACTERS_PER_CHUNK", 25)
        texts = [TextToEmbed(id="", text="x" * length, location=str(n)) for n, length in enumerate(lengths)]
        chunks = list(chunks_of(texts))
    assert [row for chunk in chunks for row in chunk] == texts
    assert all(len(chunk) <= 7 for chunk in chunks)
    assert all(len(chunk) == 1 or sum(len(row.text) for row in chunk) <= 25 for chunk in chunks)
    for before, after in pairwise(chunks):
        assert len(before) == 7 or sum(len(row.text) for row in (*before, after[0])) > 25


def test_a_long_row_is_read_alone(rows, monkeypatch):
    monkeypatch.setattr(bulk, "CHARACTERS_PER_CHUNK", 100)
    assert [len(chunk) for chunk in chunks_of(rows([10, 10, 5000, 10, 10]))] == [2, 1, 2]


def test_rows_are_read_as_they_are_needed(rows, monkeypatch):
    """A chunk is passed on when the next row is known, not at the end of the input."""
    monkeypatch.setattr(bulk, "TEXTS_PER_CHUNK", 2)
    read = []

    def stream():
        for row in rows([1] * 6):
            read.append(row)
            yield row

    chunks = chunks_of(stream())
    next(chunks)
    assert len(read) == 3


@given(st.lists(st.lists(st.text(max_size=1), unique=True, max_size=9), max_size=30))
def test_ids_that_were_seen_are_found(chunks):
    """For all chunks of different ids: those of earlier chunks, however the runs of hashes were merged."""
    seen, before = SeenIds(), set[str]()
    for chunk in chunks:
        assert seen.add(chunk) == [place for place, name in enumerate(chunk) if name in before]
        before |= set(chunk)
