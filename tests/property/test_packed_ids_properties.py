"""Proves the invariants of `PackedIds`: lengths add up, int32 throughout, every sequence comes back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minilm.infer.batching import chunked, in_order
from minilm.model.packed_ids import pack_ids
from minilm.model.packing import Packed, pack

ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)
kind = st.sampled_from([np.int32, np.int64])
texts = st.tuples(st.lists(ids, min_size=1, max_size=8), kind).map(lambda it: [np.array(x, dtype=it[1]) for x in it[0]])


@given(texts)
def test_the_lengths_add_up_and_every_sequence_comes_back(sequences):
    segments = [sequence % 2 for sequence in sequences]
    batch = pack_ids(sequences, segments)
    for array in (batch.token_ids, batch.segment_ids, batch.cu_seqlens):
        assert array.dtype == np.int32
    assert batch.lengths.tolist() == [len(sequence) for sequence in sequences]
    assert batch.num_sequences == len(sequences)
    assert batch.num_tokens == batch.lengths.sum() == batch.cu_seqlens[-1]
    for packed, given_rows in ((batch.token_ids, sequences), (batch.segment_ids, segments)):
        assert [part.tolist() for part in batch.split(packed)] == [row.tolist() for row in given_rows]


@given(texts)
def test_the_torch_form_holds_the_same(sequences):
    batch, packed = pack_ids(sequences), Packed.from_ids(pack_ids(sequences))
    assert packed.token_ids.tolist() == batch.token_ids.tolist()
    assert packed.segment_ids.tolist() == [0] * batch.num_tokens
    assert packed.cu_seqlens.tolist() == batch.cu_seqlens.tolist()
    assert packed.lengths == tuple(batch.lengths.tolist()) == pack(sequences).lengths
    assert packed.position_ids.tolist() == [place for row in sequences for place in range(len(row))]


@given(texts)
def test_results_come_in_the_order_of_the_sequences(sequences):
    found = in_order(sequences, [row % 3 for row in sequences], lambda batch: batch.split(batch.token_ids))
    assert [row.tolist() for row in found] == [row.tolist() for row in sequences]


@given(st.lists(st.integers()), st.integers(1, 9))
def test_chunks_hold_every_item_once_in_order(items, size):
    chunks = list(chunked(iter(items), size))
    assert [item for chunk in chunks for item in chunk] == items
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= size for chunk in chunks[-1:])
