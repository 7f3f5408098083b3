"""Which candidates become negatives; the selection itself is compared with sentence-transformers in `tests/parity`."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.errors import SystemProblem, UsageError
from minilm.retrieval.bm25 import WordIndex
from minilm.retrieval.negatives import choose
from minilm.retrieval.settings import MiningSettings

SCORES = np.float32([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
POSITIVE = np.array([False, True, False, False, False, False])


def chosen(scores=SCORES, is_positive=POSITIVE, positive=(0.8,), last_rank=6, seed=0, **options):
    settings = MiningSettings(**options)
    random = np.random.default_rng(seed)
    return choose(scores, is_positive, np.float32(positive), settings, last_rank=last_rank, generator=random)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 2, 3]),
        ({"range_min": 1}, [2, 3, 4]),
        ({"range_min": 1, "last_rank": 3}, [2, 3]),
        ({"max_score": 0.7}, [2, 3, 4]),
        ({"min_score": 0.65}, [0, 2]),
        ({"absolute_margin": 0.15}, [3, 4, 5]),
        ({"relative_margin": 0.2}, [3, 4, 5]),
        ({"absolute_margin": 0.0, "range_min": 2}, [4, 5]),
        ({"negatives": 1}, [0]),
        ({"absolute_margin": 9.0}, []),
    ],
)
def test_limits(options, expected):
    assert chosen(**options) == expected


def test_the_positive_with_the_lowest_score_sets_the_margin():
    assert chosen(positive=(0.8, 0.5), absolute_margin=0.05) == [5]


def test_a_relative_margin_of_a_negative_score_lowers_the_limit():
    assert chosen(np.float32([-1.05, -1.2]), np.array([False, False]), (-1.0,), relative_margin=0.1) == [1]


@given(st.integers(0, 2**32))
def test_a_random_choice_is_of_those_that_remain_best_first(seed):
    found = chosen(sampling="random", negatives=2, max_score=0.7, seed=seed)
    assert len(set(found)) == 2
    assert set(found) <= {2, 3, 4, 5}
    assert found == sorted(found)


def test_a_random_choice_varies_with_the_generator_alone():
    found = {tuple(chosen(sampling="random", negatives=2, seed=seed)) for seed in range(20)}
    assert len(found) > 5
    assert chosen(sampling="random", negatives=2, seed=3) == chosen(sampling="random", negatives=2, seed=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 0}, "negatives is 0"),
        ({"range_min": 2, "range_max": 4}, "range_min 2 to range_max 4 leaves 2 candidates, expected at least"),
        ({"sampling": "best"}, "sampling is 'best'"),
        ({"max_score": float("nan")}, "max_score is nan"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        MiningSettings(**options)


def test_ranks_that_are_looked_at_by_default():
    """As in sentence-transformers."""
    plain = {"max_positives": 2, "may_change": False}
    assert MiningSettings(range_min=5).last_rank(**plain) == 5 + 3 + 2
    assert MiningSettings(max_score=0.5).last_rank(**plain) == 3 * 10 + 2
    assert MiningSettings(min_score=0.5).last_rank(**plain) == 3 + 2
    assert MiningSettings(min_score=0.5).last_rank(max_positives=2, may_change=True) == 3 * 10 + 2
    assert MiningSettings(range_max=7).last_rank(**plain) == 7


def test_bm25_has_the_scores_of_its_formula():
    """Lucene's: log(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + 1.5 * (0.25 + 0.75 * length / mean length))."""
    pytest.importorskip("bm25s", reason="BM25 is not installed: pip install 'minilm[search]'")
    index = WordIndex(["wing lift lift", "wing drag", "heat"])
    idf = np.log1p((3 - np.array([2, 1]) + 0.5) / (np.array([2, 1]) + 0.5))
    norms = 1.5 * (0.25 + 0.75 * np.array([3, 2]) / 2)
    expected = [idf[0] / (1 + norms[0]) + idf[1] * 2 / (2 + norms[0]), idf[0] / (1 + norms[1]), 0]
    np.testing.assert_allclose(index.scores("the Wing of lift"), expected, rtol=1e-5)
    assert not index.scores("the of unknown").any()
    assert not WordIndex(["", "the"]).scores("wing").any()


def test_without_bm25s_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(SystemProblem, match=r"BM25 needs the package bm25s: pip install 'minilm\[search\]'"):
        WordIndex(["wing"])
