"""Attention dropout follows the recipe, applies in training only, and works on every code path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from minilm.model.attention import (
    _attend_padded,
    _attend_seq2seq_cuda,
    attend,
    attend_first,
    attend_seq2seq,
    attend_seq2seq_read,
)
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.packing import pack
from minilm.model.seq2seq import pack_seq2seq

COUNT, LENGTH, HEADS, WIDTH = 3, 7, 4, 8


def ids(*lengths: int) -> list[np.ndarray]:
    return [np.arange(10, 10 + length, dtype=np.int32) for length in lengths]


def rows(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT * LENGTH, HEADS, WIDTH, generator=generator) for _ in range(3)]


def test_it_is_dropout_on_the_softmax():
    """Equal to the formula with the same random draws."""
    query, key, value = rows()
    torch.manual_seed(5)
    found = attend(query, key, value, pack(ids(*[LENGTH] * COUNT)), dropout=0.3)
    q, k, v = (part.view(COUNT, LENGTH, HEADS, WIDTH).transpose(1, 2) for part in (query, key, value))
    probabilities = (q @ k.transpose(-1, -2) / WIDTH**0.5).softmax(-1)
    torch.manual_seed(5)
    expected = functional.dropout(probabilities, 0.3) @ v
    torch.testing.assert_close(found, expected.transpose(1, 2).reshape(query.shape))


COPIES = 500


def drawn_by(way: str, dropout: float) -> torch.Tensor:
    """`[COPIES, N, HEADS, WIDTH]`: attention of copies of a few sequences, or pairs, through one of the functions."""

    def copied(*lengths: int) -> list[np.ndarray]:
        return ids(*(length for length in lengths for _ in range(COPIES)))

    pairs = pack_seq2seq(copied(5, 6), copied(2, 3), pseudo=copied(2, 3))
    batch = pack(copied(5, 6, 6, 4))
    lengths = (9, 12) if "seq2seq" in way or "GPU" in way else (5, 6, 6, 4)
    sequences = torch.arange(COUNT * LENGTH).split(lengths)
    query, key, value = (row[torch.cat([one.repeat(COPIES) for one in sequences])] for row in rows())
    first, read = query[batch.first_rows], query[pairs.read_rows]
    found, lengths = {
        "attend": lambda: (attend(query, key, value, batch, dropout=dropout), lengths),
        "attend_first": lambda: (attend_first(first, key, value, batch, dropout=dropout), (1, 1, 1, 1)),
        "attend_seq2seq": lambda: (attend_seq2seq(query, key, value, pairs, dropout=dropout), lengths),
        "attend_seq2seq_read": lambda: (attend_seq2seq_read(read, key, value, pairs, dropout=dropout), (2, 3)),
        "of GPUs": lambda: (_attend_seq2seq_cuda(query, key, value, pairs, dropout), lengths),
        "of GPUs, read": lambda: (_attend_padded(read, key, value, pairs.padded_read, dropout), (2, 3)),
    }[way]()
    parts = found.split([COPIES * length for length in lengths])
    return torch.cat([part.unflatten(0, (COPIES, -1)) for part in parts], 1)


@pytest.mark.parametrize(
    "way", ["attend", "attend_first", "attend_seq2seq", "attend_seq2seq_read", "of GPUs", "of GPUs, read"]
)
def test_every_row_drops_and_the_mean_is_attention_without_it(way):
    torch.manual_seed(0)
    draws, plain = drawn_by(way, 0.2), drawn_by(way, 0.0)
    assert (draws.std(0).flatten(1) > 0.01).any(1).all()
    torch.testing.assert_close(plain, plain[:1].expand_as(plain))
    torch.testing.assert_close(draws.mean(0), plain[0], atol=0.1, rtol=0)


def encoder() -> Encoder:
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "intermediate_size": 24, "vocab_size": 90}
    made = Encoder(EncoderConfig(**sizes, max_positions=16, hidden_dropout=0.0, initializer_range=0.5))
    made.reset(torch.Generator().manual_seed(0))
    return made


@pytest.mark.parametrize("way", ["rows", "first rows", "seq2seq", "relations"])
def test_an_encoder_drops_in_training_only_and_only_when_it_is_set(way):
    model = encoder()
    batch = pack(ids(5, 5, 9))
    pairs = pack_seq2seq(ids(5, 6), ids(2, 3), pseudo=ids(2, 3))

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        if way == "rows":
            return model(batch)
        if way == "seq2seq":
            return model.seq2seq(pairs)
        return model.first(batch) if way == "first rows" else model.relations(batch).value

    model.train()
    plain = drawn(1)
    assert torch.equal(plain, drawn(2)), "the configuration says 0.1, and nothing is dropped"
    model.attention_dropout = 0.5
    dropped = drawn(1)
    assert torch.equal(dropped, drawn(1))
    assert not torch.equal(dropped, drawn(2))
    assert not torch.equal(dropped, plain)
    model.eval()
    torch.testing.assert_close(drawn(1), plain)


def test_the_last_layer_drops_too():
    """With one layer, attention computes only the rows that the loss reads."""
    model = Encoder(
        EncoderConfig(
            hidden_size=16, num_layers=1, num_heads=4, intermediate_size=24, vocab_size=90, hidden_dropout=0.0
        )
    )
    model.reset(torch.Generator().manual_seed(0))
    model.train().attention_dropout = 0.5
    pairs = pack_seq2seq(ids(5, 6), ids(2, 3), pseudo=ids(2, 3))
    assert not torch.equal(model.first(pack(ids(5, 9))), model.first(pack(ids(5, 9))))
    assert not torch.equal(model.seq2seq(pairs), model.seq2seq(pairs))
