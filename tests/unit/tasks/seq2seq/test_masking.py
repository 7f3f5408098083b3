"""Proves what is masked, how often, what is predicted, and that all of it comes from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.tasks.seq2seq.masking import Symbols, heldout_view, training_view
from minilm.tasks.seq2seq.settings import MaskingSettings

SYMBOLS = Symbols(cls_id=1, sep_id=2, mask_id=3, vocab_size=1000)
SOURCE, TARGET = np.arange(100, 110, dtype=np.int32), np.arange(200, 204, dtype=np.int32)


def view(masking: MaskingSettings, *, source=SOURCE, target=TARGET, seed=0):
    return training_view(source, target, masking, SYMBOLS, np.random.default_rng(seed))


def test_by_default_only_pseudo_tokens_are_masked():
    one = view(MaskingSettings())
    assert one.source.tolist() == [1, *SOURCE, 2]
    assert one.target.tolist() == one.labels.tolist() == [*TARGET, 2]
    assert len(one.pseudo) == 5
    assert one.num_tokens == 12 + 5 + 5


def test_pseudo_tokens_are_mask_random_and_true_in_their_shares():
    one = view(MaskingSettings(), target=np.full(20000, 500, dtype=np.int32))
    masked, true = (one.pseudo == 3).mean(), (one.pseudo == 500).mean()
    assert masked == pytest.approx(0.8, abs=0.01)
    assert true == pytest.approx(0.1, abs=0.01)
    others = one.pseudo[(one.pseudo != 3) & (one.pseudo != 500)]
    assert (others.min(), others.max()) == (0, 999)


def test_source_and_true_targets_are_masked_on_request_but_never_special_tokens():
    source = np.where(np.arange(20000) % 10 == 0, 2, 500).astype(np.int32)
    one = view(
        MaskingSettings(source_mask_prob=0.3, target_mask_prob=0.5, keep_prob=0.0, random_prob=0.0),
        source=source,
        target=source,
    )
    inner = one.source[1:-1]
    assert (inner[source == 2] == 2).all()
    assert (inner[source == 500] == 3).mean() == pytest.approx(0.3, abs=0.01)
    assert one.source[[0, -1]].tolist() == [1, 2]
    assert (one.target == 3).mean() == pytest.approx(0.5, abs=0.01)
    assert (one.pseudo == 3).all()
    assert one.labels.tolist() == [*source.tolist(), 2]


def test_a_masked_true_target_is_its_pseudo_token():
    one = view(MaskingSettings(target_mask_prob=0.5), target=np.arange(100, 900, dtype=np.int32))
    changed = one.target != one.labels
    assert 200 < changed.sum() < 500
    assert (one.target[changed] == one.pseudo[changed]).all()


def test_v1_predicts_a_share_of_the_targets_in_place():
    masking = MaskingSettings(mask_way="v1", target_mask_prob=0.6, max_masked_tokens=6, keep_prob=0.0, random_prob=0.0)
    one = view(masking, target=np.arange(200, 220, dtype=np.int32))
    assert len(one.read) == len(one.labels) == masking.num_predicted(21) == 6
    assert (one.target[one.read] == 3).all()
    true = np.array([*range(200, 220), 2])
    assert one.labels.tolist() == true[one.read].tolist()
    assert np.delete(one.target, one.read).tolist() == np.delete(true, one.read).tolist()
    assert MaskingSettings(mask_way="v1", target_mask_prob=0.01).num_predicted(4) == 1  # at least one
    assert MaskingSettings(mask_way="v1", target_mask_prob=0.9).num_predicted(20) == 18  # no limit


def test_v0_predicts_the_next_token_and_keeps_the_first():
    one = view(MaskingSettings(mask_way="v0", target_mask_prob=0.99, keep_prob=0.0, random_prob=0.0))
    assert one.source.tolist() == [1, *SOURCE]
    assert one.target[0] == 2
    assert (one.target[1:] == 3).all()
    assert one.labels.tolist() == [*TARGET, 2]
    assert one.pseudo is None


def test_held_out_pairs_are_seen_as_decoding_sees_them():
    for way in ("v1", "v2"):
        one = heldout_view(SOURCE, TARGET, way, SYMBOLS)
        assert (one.pseudo == 3).all()
        assert one.target.tolist() == one.labels.tolist() == [*TARGET, 2]
    one = heldout_view(SOURCE, TARGET, "v0", SYMBOLS)
    assert one.target.tolist() == [2, *TARGET]
    assert one.pseudo is None


@pytest.mark.parametrize("way", ["v0", "v1", "v2"])
def test_the_same_generator_gives_the_same_view(way):
    masking = MaskingSettings(mask_way=way, target_mask_prob=0.5, source_mask_prob=0.5)
    first, again, other = (view(masking, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("source", "target", "labels"))
    assert not np.array_equal(first.source, other.source)
