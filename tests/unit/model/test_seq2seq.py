"""Contents of packed pairs, agreement of both attention implementations, and extension of position tables."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from minilm.errors import DataError, UsageError
from minilm.model import attention
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.positions import grow_positions, tile_positions
from minilm.model.seq2seq import PackedSeq2Seq, pack_seq2seq

SOURCES, TARGETS = (5, 1, 9, 9), (2, 3, 1, 4)


def ids(lengths, start=10):
    return [np.arange(start, start + length, dtype=np.int32) for length in lengths]


def batch(*, pseudo: bool = True) -> PackedSeq2Seq:
    return pack_seq2seq(ids(SOURCES), ids(TARGETS, 40), pseudo=ids(TARGETS, 70) if pseudo else None)


def encoder(**changes) -> Encoder:
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "intermediate_size": 24, "vocab_size": 90}
    made = Encoder(EncoderConfig(**{**sizes, "max_positions": 16, "hidden_dropout": 0.0, **changes}))
    made.reset(torch.Generator().manual_seed(0))
    return made.eval()


def test_a_pair_is_source_target_pseudo_tokens_and_shares_positions():
    one = pack_seq2seq(ids([3]), ids([2], 40), pseudo=ids([2], 70))
    assert one.packed.token_ids.tolist() == [10, 11, 12, 40, 41, 70, 71]
    assert one.packed.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert one.packed.segment_ids.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert one.read_rows.tolist() == [5, 6]
    assert one.max_positions == 5
    assert one.tail_masks[0].int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 1, 0, 0, 1],
    ]
    assert torch.equal(one.read_masks[0], one.tail_masks[0][2:])


def test_without_pseudo_tokens_chosen_targets_are_read():
    pair = pack_seq2seq(ids([3, 1]), ids([3, 2], 40), read=[np.array([0, 2]), np.array([1])])
    assert pair.packed.lengths == (6, 3)
    assert pair.read_rows.tolist() == [3, 5, 8]
    assert pair.read_masks[0].int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("pseudo", [True, False])
def test_the_gpu_way_equals_the_cpu_way(pseudo):
    """Outputs and gradients of the padded calls equal those of one call per part; nothing leaks from padding."""
    pairs = batch(pseudo=pseudo)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(pairs.packed.num_tokens, 4, 8, generator=generator) for _ in range(3)]
    weights = torch.randn(rows[0].shape, generator=generator)
    found = []
    for way in (attention.attend_seq2seq, partial(attention._attend_seq2seq_cuda, dropout=0.0)):
        given = [part.clone().requires_grad_() for part in rows]
        attended = way(*given, pairs)
        (attended * weights).sum().backward()
        found.append([attended, *(part.grad for part in given)])
    for ours, other in zip(*found, strict=True):
        torch.testing.assert_close(ours, other)
    read = pairs.read_rows
    expected = found[0][0][read]
    torch.testing.assert_close(attention.attend_seq2seq_read(rows[0][read], *rows[1:], pairs), expected)
    torch.testing.assert_close(attention._attend_padded(rows[0][read], *rows[1:], pairs.padded_read, 0.0), expected)


def test_only_the_rows_that_are_read_are_returned():
    """They equal the same rows of a batch in which every target and pseudo token is read."""
    model, pairs = encoder(), batch()
    hidden = model.embeddings(pairs.packed)
    for layer in model.layers:
        hidden = layer.forward_with(hidden, lambda *parts: attention.attend_seq2seq(*parts, pairs))
    torch.testing.assert_close(model.seq2seq(pairs), hidden[pairs.read_rows])


def test_on_another_device_the_batch_is_the_same():
    moved = batch().to("cpu")
    assert torch.equal(moved.read_rows, batch().read_rows)


@pytest.mark.parametrize(
    ("sources", "targets", "pseudo", "message"),
    [
        ([], [], None, "at least one pair and no empty source or target"),
        ([2], [0], None, "at least one pair and no empty source or target"),
        ([0], [2], None, "at least one pair and no empty source or target"),
        ([2], [2], [1], "pseudo tokens must be one per target token"),
    ],
)
def test_invalid_batches_are_rejected(sources, targets, pseudo, message):
    with pytest.raises(UsageError, match=message):
        pack_seq2seq(ids(sources), ids(targets), pseudo=None if pseudo is None else ids(pseudo))


def test_positions_are_counted_once_for_target_and_pseudo_token():
    """11 + 5 positions fit into 16, though 21 tokens are computed; one more does not."""
    model = encoder()
    model.seq2seq(pack_seq2seq(ids([11]), ids([5]), pseudo=ids([5])))
    with pytest.raises(DataError, match="a sequence has 17 tokens, but the position table holds 16"):
        model.seq2seq(pack_seq2seq(ids([12]), ids([5]), pseudo=ids([5])))


def test_tables_are_tiled_or_truncated():
    table = torch.arange(3.0)[:, None]
    assert tile_positions(table, 7).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert tile_positions(table, 2).flatten().tolist() == [0, 1]
    assert tile_positions(table, 6, first=1).flatten().tolist() == [0, 1, 2, 1, 2, 1]


def test_a_table_with_reserved_rows_grows_after_them(caplog):
    """RoBERTa's first position is 2: the rows before it are unused and are not repeated."""
    model = encoder(family="roberta", pad_token_id=1, num_segments=1)
    old = model.embeddings.position.weight.detach().clone()
    grow_positions(model, 20)
    assert "the position table was extended from 14 to 20 tokens" in caplog.text
    assert (model.config.max_positions, model.config.max_tokens) == (22, 20)
    assert torch.equal(model.embeddings.position.weight[:16], old)
    assert torch.equal(model.embeddings.position.weight[16:], old[2:8])
    assert model.embeddings.position.weight.requires_grad
    caplog.clear()
    grow_positions(model, 12)
    assert model.config.max_tokens == 20
    assert not caplog.text
