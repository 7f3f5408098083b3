"""Proves that packed seq2seq training equals padded training with a dense mask, in any order and any split."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.finetune.seq2seq import batch_of, smoothed_losses
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.tasks.seq2seq.masking import Symbols, training_view
from minilm.tasks.seq2seq.settings import MaskingSettings

SYMBOLS = Symbols(cls_id=1, sep_id=2, mask_id=3, vocab_size=50)
FEW = settings(max_examples=15, deadline=None)
CPU = torch.device("cpu")
pairs = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), min_size=1, max_size=5)
seeds = st.integers(0, 2**32 - 1)
ways = st.sampled_from(["v0", "v1", "v2"])


@functools.cache
def model() -> Model:
    config = EncoderConfig(
        **{"hidden_size": 16, "num_layers": 2, "num_heads": 4, "intermediate_size": 24},
        **{"vocab_size": 50, "max_positions": 40, "initializer_range": 0.3, "hidden_dropout": 0.0},
    )
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(config, pooler=False)
    encoder.reset(generator)
    return Model(encoder, new_head("mlm", config, num_labels=0, generator=generator)).eval()


def views(lengths, way, seed):
    draw = np.random.default_rng(seed)
    masking = MaskingSettings(mask_way=way, target_mask_prob=0.5, source_mask_prob=0.2)
    return [
        training_view(*(draw.integers(4, 50, size).astype(np.int32) for size in pair), masking, SYMBOLS, draw)
        for pair in lengths
    ]


def losses(batch):
    scores = model().head.score(model().encoder.seq2seq(batch.seq2seq), model().encoder)
    return smoothed_losses(scores, batch.labels, smoothing=0.1, pad_id=0)


def dense_losses(view):
    """One pair the slow way: all rows of all layers, one additive mask over the full square."""
    parts = [view.source, view.target] + ([] if view.pseudo is None else [view.pseudo])
    source, target = len(view.source), len(view.target)
    tokens = torch.from_numpy(np.concatenate(parts).astype(np.int64))
    allowed = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    allowed[:, :source] = True
    for i in range(target):
        allowed[source + i, source : source + i + 1] = True
        if view.pseudo is not None:
            allowed[source + target + i, source : source + i] = True
            allowed[source + target + i, source + target + i] = True
    encoder = model().encoder
    places = torch.cat([torch.arange(source), *[torch.arange(source, source + target)] * (len(parts) - 1)])
    kinds = (torch.arange(len(tokens)) >= source).long()
    tables = encoder.embeddings
    hidden = tables.norm(tables.word(tokens) + tables.position(places) + tables.segment(kinds))
    for layer in encoder.layers:
        query, key, value = (part.transpose(0, 1) for part in layer.project(hidden))
        scores = (query @ key.transpose(1, 2) / 2.0).masked_fill(~allowed, -10000.0)
        hidden = layer._finish(hidden, (scores.softmax(-1) @ value).transpose(0, 1))
    first = source + (target if view.pseudo is not None else 0)
    rows = hidden[first : first + target]
    if view.read is not None:
        rows = rows[torch.from_numpy(view.read)]
    scores = model().head.score(rows, encoder).log_softmax(1)
    labels = torch.from_numpy(view.labels.astype(np.int64))
    wanted = torch.full_like(scores, 0.1 / 48).scatter(1, labels[:, None], 0.9)
    wanted[:, 0] = 0
    return torch.nn.functional.kl_div(scores, wanted, reduction="none").sum(1)


@FEW
@given(pairs, ways, seeds)
def test_packed_equals_dense(lengths, way, seed):
    made = views(lengths, way, seed)
    found = losses(batch_of(made, pad_id=0))
    expected = torch.cat([dense_losses(view) for view in made])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = list(model().encoder.layers.parameters())
    ours, theirs = (torch.autograd.grad(part.sum(), weights) for part in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@FEW
@given(pairs, ways, seeds)
def test_the_order_and_the_split_change_nothing(lengths, way, seed):
    made = views(lengths, way, seed)
    order = np.random.default_rng(seed).permutation(len(made))
    with torch.no_grad():
        alone = [losses(batch_of([view], pad_id=0)) for view in made]
        mixed = losses(batch_of([made[place] for place in order], pad_id=0))
    torch.testing.assert_close(mixed, torch.cat([alone[place] for place in order]), atol=1e-5, rtol=1e-5)


@FEW
@given(st.integers(1, 12), st.integers(1, 8), seeds, ways)
def test_a_prediction_depends_on_nothing_it_must_not_see(source, target, seed, way):
    """Changing a target token changes no prediction of it or of an earlier one."""
    draw = np.random.default_rng(seed)
    source_ids, target_ids = (draw.integers(4, 50, size).astype(np.int32) for size in (source, target))
    place = int(draw.integers(0, target))
    changed = target_ids.copy()
    changed[place] = (changed[place] - 4 + 1) % 46 + 4
    masking = MaskingSettings(mask_way="v2" if way == "v1" else way, keep_prob=0.0, random_prob=0.0)
    both = [training_view(source_ids, ids, masking, SYMBOLS, np.random.default_rng(0)) for ids in (target_ids, changed)]
    with torch.no_grad():
        first, second = (model().encoder.seq2seq(batch_of([view], pad_id=0).seq2seq) for view in both)
    torch.testing.assert_close(first[: place + 1], second[: place + 1], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(first[place + 1 :], second[place + 1 :], atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_loss_is_the_divergence_from_its_definition(smoothing):
    torch.manual_seed(0)
    scores, labels = torch.randn(6, 30, dtype=torch.float64), torch.tensor([3, 29, 1, 0, 7, 7])
    wanted = torch.full_like(scores, smoothing / 28).scatter(1, labels[:, None], 1 - smoothing)
    wanted[:, 0] = 0
    expected = torch.nn.functional.kl_div(scores.log_softmax(1), wanted, reduction="none").sum(1)
    if smoothing:
        expected[3] = 0  # [PAD] as a label does not count
    else:
        expected[3] = -scores.log_softmax(1)[3, 0]  # without smoothing it is a label like any other
    found = smoothed_losses(scores, labels, smoothing=smoothing, pad_id=0)
    torch.testing.assert_close(found, expected)
