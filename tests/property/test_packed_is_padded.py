"""Proves that packing changes nothing: packed = one by one = padded, in any order, including gradients."""

from __future__ import annotations

import functools
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.model.attention import attend, attend_first
from minilm.model.checkpoint import read_model
from minilm.model.packing import pack, unpack
from minilm.model.tensor_names import to_hf

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'minilm[hf]'")

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
FEW = settings(max_examples=15, deadline=None)
# Mixes: many short, a few long, ties, the longest that the position table allows.
length = st.one_of(st.integers(1, 8), st.integers(1, 64), st.sampled_from([1, 2, 33, 511, 512]))
lengths = st.lists(length, min_size=1, max_size=6)
seeds = st.integers(0, 2**32 - 1)
families = st.sampled_from(["bert", "mpnet"])  # absolute positions, and relative ones


@functools.cache
def models(family):
    """A tiny model with 512 positions: theirs, and ours read from its folder."""
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=514 if family == "mpnet" else 512,
        initializer_range=0.3,
    )
    theirs = transformers.AutoModel.from_config(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, read_model(folder).encoder


def texts(lengths, seed):
    generator = np.random.default_rng(seed)
    ids = [generator.integers(2, 60, size=length) for length in lengths]
    return ids, [generator.integers(0, 2, size=length) for length in lengths]


def padded_rows(ids, kinds, family):
    theirs, _ = models(family)
    rows = [
        torch.nn.utils.rnn.pad_sequence([torch.from_numpy(x) for x in part], batch_first=True) for part in (ids, kinds)
    ]
    mask = torch.arange(rows[0].shape[1]) < torch.tensor([len(x) for x in ids])[:, None]
    segments = {"token_type_ids": rows[1]} if family == "bert" else {}
    out = theirs(input_ids=rows[0], attention_mask=mask.long(), **segments)
    return out.last_hidden_state[mask], out.pooler_output


@FEW
@given(lengths, seeds, families)
def test_packed_equals_one_by_one_equals_padded(lengths, seed, family):
    ids, kinds = texts(lengths, seed)
    _, ours = models(family)
    with torch.no_grad():
        together = ours(pack(ids, segments=kinds))
        alone = torch.cat([ours(pack([x], segments=[k])) for x, k in zip(ids, kinds, strict=True)])
        padded, pooled = padded_rows(ids, kinds, family)
        torch.testing.assert_close(together, alone, **TOLERANCE)
        torch.testing.assert_close(together, padded, **TOLERANCE)
        torch.testing.assert_close(ours.pooled(pack(ids, segments=kinds)), pooled, **TOLERANCE)


@FEW
@given(lengths, seeds, families)
def test_the_order_of_sequences_changes_nothing(lengths, seed, family):
    ids, kinds = texts(lengths, seed)
    order = np.random.default_rng(seed + 1).permutation(len(ids))
    _, ours = models(family)
    with torch.no_grad():
        packed = pack(ids, segments=kinds)
        rows = list(unpack(ours(packed), packed))
        shuffled = pack([ids[i] for i in order], segments=[kinds[i] for i in order])
        again = list(unpack(ours(shuffled), shuffled))
    for place, source in enumerate(order):
        torch.testing.assert_close(again[place], rows[source], **TOLERANCE)


@FEW
@given(lengths, seeds, families)
def test_first_is_the_first_rows_of_forward(lengths, seed, family):
    ids, kinds = texts(lengths, seed)
    _, ours = models(family)
    packed = pack(ids, segments=kinds)
    with torch.no_grad():
        torch.testing.assert_close(ours.first(packed), ours(packed)[packed.first_rows], **TOLERANCE)


@settings(max_examples=8, deadline=None)
@given(lengths, seeds, families, st.booleans())
def test_gradients_equal_those_of_the_padded_run(lengths, seed, family, pooled):
    ids, kinds = texts(lengths, seed)
    theirs, ours = models(family)
    packed = pack(ids, segments=kinds)
    mine = ours.pooled(packed) if pooled else ours(packed)
    other = padded_rows(ids, kinds, family)[int(pooled)]
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(seed))
    found = to_hf(gradients((mine * weights).sum(), ours, "encoder."), family=family, head=None)
    expected = gradients((other * weights).sum(), theirs)
    assert found.keys() == expected.keys()
    for name, target in expected.items():
        if name.endswith(("key.bias", "k.bias")):  # zero up to rounding: softmax ignores a constant
            continue
        if max(lengths) == 1 and any(part in name for part in (".query.", ".key.", ".q.", ".k.")):
            continue  # also zero: a token that is alone gets all of the attention
        scale = max(float(target.abs().max()), 1e-3)
        assert float((found[name] - target).abs().max()) <= 2e-5 * scale, name


def gradients(loss, module, prefix=""):
    """The gradient of every weight that the loss depends on, by name."""
    names, weights = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return {prefix + name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


@FEW
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), seeds, st.sampled_from([None, 1, 2, 5, 20]))
def test_attention_never_leaves_a_sequence_nor_the_window(lengths, seed, window):
    """Against whole matrices with an explicit mask; two query heads share a key head."""
    generator = torch.Generator().manual_seed(seed)
    packed = pack([np.ones(length, dtype=np.int64) for length in lengths])
    total = packed.num_tokens
    query = torch.randn(total, 4, 3, generator=generator)
    key, value = (torch.randn(total, 2, 3, generator=generator) for _ in range(2))
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = owner[:, None] == owner
    if window is not None:
        allowed &= (torch.arange(total)[:, None] - torch.arange(total)).abs() < window
    scores = torch.einsum("thd,shd->hts", query, key.repeat_interleave(2, dim=1)) * 0.7
    attention = torch.softmax(scores.masked_fill(~allowed, -torch.inf), dim=-1)
    expected = torch.einsum("hts,shd->thd", attention, value.repeat_interleave(2, dim=1))
    torch.testing.assert_close(attend(query, key, value, packed, scale=0.7, window=window), expected, **TOLERANCE)


@FEW
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), seeds)
def test_attention_of_first_rows_is_the_first_rows_of_attention(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    packed = pack([np.ones(length, dtype=np.int64) for length in lengths])
    query, key, value = (torch.randn(packed.num_tokens, 2, 3, generator=generator) for _ in range(3))
    expected = attend(query, key, value, packed)[packed.first_rows]
    torch.testing.assert_close(attend_first(query[packed.first_rows], key, value, packed), expected, **TOLERANCE)
