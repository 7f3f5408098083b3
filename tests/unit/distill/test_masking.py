"""Masked text follows BERT's rule, and is a function of seed and place alone."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.distill.masking import Masking

ORDINARY = np.arange(5, 1000)
MASK = 4


def masking(share: float = 0.15, seed: int = 1) -> Masking:
    return Masking(share=share, mask_id=MASK, ordinary=ORDINARY, seed=seed)


def document(length: int) -> np.ndarray:
    return np.concatenate([[2], np.random.default_rng(length).integers(5, 1000, size=length - 2), [3]])


@pytest.mark.parametrize(
    ("length", "count"), [(2, 0), (1, 0), (3, 1), (8, 1), (12, 2), (15, 2), (16, 2), (102, 15), (512, 77)]
)
def test_the_share_of_the_tokens_inside_the_frame_is_masked_and_at_least_one(length, count):
    assert masking().counts(np.array([length])).tolist() == [count]
    found = masking().masked(np.arange(10, 10 + length), "step", 0, 0)
    assert len(found.places) == len(found.labels) == count
    assert not {0, length - 1} & set(found.places.tolist())


def test_of_masked_tokens_eight_of_ten_become_the_mask_one_another_and_one_stays():
    ids = document(40_002)
    found = masking(0.5).masked(ids, "step", 3, 4)
    read = found.token_ids[found.places]
    assert np.array_equal(found.labels, ids[found.places])
    assert np.mean(read == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(read == found.labels) == pytest.approx(0.1, abs=0.02)
    others = read[(read != MASK) & (read != found.labels)]
    assert len(others) / len(read) == pytest.approx(0.1, abs=0.02)
    assert np.all(np.isin(others, ORDINARY))
    assert len(np.unique(others)) > 500
    rest = np.ones(len(ids), dtype=bool)
    rest[found.places] = False
    assert np.array_equal(found.token_ids[rest], ids[rest]), "nothing else changes"
    assert np.all(np.diff(found.places) > 0)


def test_masks_depend_on_seed_and_place_and_on_nothing_else():
    ids = document(100)
    first = masking().masked(ids, "step", 3, 4)
    for other in (masking(seed=2).masked(ids, "step", 3, 4), masking().masked(ids, "step", 4, 4),
                  masking().masked(ids, "step", 3, 5), masking().masked(ids, "heldout", 3)):  # fmt: skip
        assert not np.array_equal(first.places, other.places)
    again = masking().masked(ids.astype(np.int32), "step", 3, 4)
    assert np.array_equal(first.token_ids, again.token_ids)


def test_the_stream_is_fixed():
    """A run that is resumed with another release of NumPy continues with the same masks."""
    found = masking().masked(np.arange(10, 30), "step", 0, 0)
    assert found.places.tolist() == [11, 16, 18]
