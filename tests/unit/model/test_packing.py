"""A packed batch contains every token once, in order, with the positions of its own sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minilm.errors import UsageError
from minilm.model.packing import pack, unpack

SEQUENCES = [np.array([5, 6, 7]), np.array([8]), np.array([9, 10]), np.array([11, 12])]


def test_sequences_lie_end_to_end_with_their_own_positions():
    packed = pack(SEQUENCES)
    assert packed.token_ids.tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    assert packed.position_ids.tolist() == [0, 1, 2, 0, 0, 1, 0, 1]
    assert packed.segment_ids.tolist() == [0] * 8
    assert packed.cu_seqlens.tolist() == [0, 3, 4, 6, 8]
    assert packed.lengths == (3, 1, 2, 2)
    assert (packed.num_sequences, packed.num_tokens, packed.max_len) == (4, 8, 3)
    assert packed.first_rows.tolist() == [0, 3, 4, 6]


def test_types_are_those_the_kernels_need():
    packed = pack([sequence.astype(np.uint16) for sequence in SEQUENCES])
    assert packed.token_ids.dtype == packed.position_ids.dtype == packed.segment_ids.dtype == torch.int64
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.first_rows.dtype == torch.int64


def test_positions_begin_at_0_in_each_sequence():
    assert pack(SEQUENCES).position_ids.tolist() == [0, 1, 2, 0, 0, 1, 0, 1]


def test_segments_follow_the_tokens():
    packed = pack(SEQUENCES[:2], segments=[np.array([0, 1, 1]), np.array([1])])
    assert packed.segment_ids.tolist() == [0, 1, 1, 1]


def test_neighbors_of_equal_length_are_one_run():
    assert pack(SEQUENCES).runs == ((1, 3), (1, 1), (2, 2))
    assert pack([SEQUENCES[2]] * 5).runs == ((5, 2),)
    assert sum(count * length for count, length in pack(SEQUENCES).runs) == 8


def test_unpack_gives_each_sequence_its_rows_back():
    packed = pack(SEQUENCES)
    rows = torch.stack([packed.token_ids, packed.position_ids], dim=1)
    for mine, sequence in zip(unpack(rows, packed), SEQUENCES, strict=True):
        assert mine[:, 0].tolist() == sequence.tolist()
        assert mine[:, 1].tolist() == list(range(len(sequence)))
        assert mine.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()  # views, not copies


def test_a_batch_moves_as_a_whole():
    moved = pack(SEQUENCES).to("meta")
    assert {getattr(moved, name).device.type for name in ("token_ids", "position_ids", "segment_ids")} == {"meta"}
    assert moved.cu_seqlens.device.type == "meta"
    assert moved.lengths == (3, 1, 2, 2)


@pytest.mark.parametrize("sequences", [[], [np.array([], dtype=np.int64)], [*SEQUENCES, np.array([])]])
def test_no_sequence_or_an_empty_one_is_rejected(sequences):
    with pytest.raises(UsageError) as caught:
        pack(sequences)
    assert str(caught.value) == (
        "a packed batch needs at least one sequence and no empty sequence; omit empty sequences"
    )
