"""The order of documents never changes, is split evenly, and is grouped by length within a budget."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.corpus.order import rank_share, step_documents
from minilm.errors import UsageError
from minilm.model.token_budget import microbatches
from minilm.randomness import derived_seed, generator


def test_order_never_changes_between_releases():
    """A run resumed with a newer release must see the same documents."""
    first = step_documents(num_documents=10, batch_size=10, seed=42, step=0)
    second = step_documents(num_documents=10, batch_size=10, seed=42, step=1)
    assert first.tolist() == [2, 8, 0, 7, 4, 9, 1, 6, 5, 3]
    assert second.tolist() == [7, 1, 2, 5, 0, 9, 4, 3, 8, 6]
    assert derived_seed(42, "student", 3) == 720691545194229353
    assert int(generator(42, "mask", 7).bit_generator.random_raw()) == 681574044654787299


def test_batch_may_be_larger_than_the_corpus():
    documents = step_documents(num_documents=3, batch_size=10, seed=0, step=5)
    assert documents.dtype == np.int64
    assert np.bincount(documents).max() <= 5
    assert set(documents) == {0, 1, 2}


def test_callers_cannot_spoil_the_cached_order():
    before = step_documents(num_documents=6, batch_size=6, seed=1, step=0)
    copy = before.copy()
    before[:] = 0
    assert np.array_equal(step_documents(num_documents=6, batch_size=6, seed=1, step=0), copy)


def test_purposes_and_their_types_are_kept_apart():
    seeds = {
        derived_seed(0),
        derived_seed(0, "a"),
        derived_seed(0, "a", 1),
        derived_seed(0, "a", "1"),
        derived_seed(1),
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert generator(3, "x").random() == generator(3, "x").random()
    assert generator(3, "x").random() != generator(3, "y").random()


def test_uneven_share_lists_the_valid_numbers_of_processes():
    with pytest.raises(UsageError, match=r"12 documents cannot be shared evenly by 5 .* 1, 2, 3, 4, 6, 12 processes"):
        rank_share(np.arange(12), rank=0, world_size=5)
    with pytest.raises(UsageError, match="rank is 4; expected 0 to 3"):
        rank_share(np.arange(12), rank=4, world_size=4)


@pytest.mark.parametrize(("name", "value"), [("num_documents", 0), ("batch_size", 0), ("step", -1)])
def test_impossible_numbers_are_rejected(name, value):
    arguments = {"num_documents": 5, "batch_size": 2, "seed": 0, "step": 0, name: value}
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        step_documents(**arguments)


def test_microbatches_group_similar_lengths():
    groups = microbatches(np.array([5, 1, 5, 9, 1, 20]), token_budget=10)
    assert [group.tolist() for group in groups] == [[1, 4, 0], [2], [3], [5]]
    assert microbatches(np.array([], dtype=np.int32), token_budget=10) == []
