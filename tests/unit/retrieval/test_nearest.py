"""Exact search in blocks finds what sorting all scores finds, whatever the blocks, ties and precisions.

Every test runs on the kernels and in numpy.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.errors import DataError, UsageError
from minilm.infer.similarity import SIMILARITIES, similarities
from minilm.infer.vector_precision import quantized, ranges_of
from minilm.infer.vectors import VectorOptions
from minilm.retrieval import search, vectors
from minilm.retrieval.search import Best, nearest, require_signs_fit
from minilm.retrieval.vectors import SmallerRows, StoredRows


@pytest.fixture(params=["kernels", "numpy"], autouse=True, scope="module")
def _ways(request):
    """Search on the kernels, if there are any, then without them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(search.SearchKernel, "shared", lambda _threads: None)
        yield


def stored(array, precision="fp32", ranges=None):
    return StoredRows(
        stored_NW=quantized(array, precision, ranges), dimensions=array.shape[1], precision=precision, ranges_2D=ranges
    )


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(0, 7), st.integers(1, 70), st.integers(1, 50))
@settings(deadline=None, max_examples=60)
def test_blocks_of_any_size_give_what_a_stable_sort_gives(seed, count, queries, k, per_block):
    """Whole numbers, so that equal scores are equal in every block and occur often."""
    random = np.random.default_rng(seed)
    documents = random.integers(-2, 3, (count, 4)).astype(np.float32)
    asked = random.integers(-2, 3, (queries, 4)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "VALUES_PER_BLOCK", 4 * per_block)
        patch.setattr(search, "QUERIES_PER_BLOCK", 3)
        found = nearest(asked, stored(documents), similarity="dot", k=k)
    scores = asked @ documents.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.rows_QK, expected)
    np.testing.assert_array_equal(found.scores_QK, np.take_along_axis(scores, expected, 1))


@pytest.mark.parametrize("similarity", [None, *SIMILARITIES])
def test_scores_are_those_of_the_model(similarity):
    random = np.random.default_rng(0)
    documents, asked = random.normal(size=(40, 8)).astype(np.float32), random.normal(size=(2, 8)).astype(np.float32)
    found = nearest(asked, stored(documents), similarity=similarity, k=40)
    expected = np.take_along_axis(similarities(asked, documents, similarity), found.rows_QK, 1)
    np.testing.assert_allclose(found.scores_QK, expected, atol=1e-6)
    assert (np.diff(found.scores_QK, axis=1) <= 0).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "binary"])
def test_smaller_vectors_are_those_that_an_index_of_that_kind_would_hold(precision, monkeypatch):
    monkeypatch.setattr(vectors, "VALUES_PER_BLOCK", 16 * 7)
    random = np.random.default_rng(1)
    whole = random.normal(size=(50, 16)).astype(np.float32)
    options = VectorOptions(prompt="", dimensions=11, renormalize=True, precision=precision)
    cut = options.cut(whole)
    ranges = ranges_of(cut) if precision == "int8" else None
    expected = stored(cut, precision, ranges).numbers()
    smaller = SmallerRows(stored(whole), options)
    np.testing.assert_array_equal(smaller.block(slice(None)).numbers(), expected)
    assert (len(smaller), smaller.dimensions) == (50, 11)


def test_vectors_that_are_not_finite_are_an_error():
    documents = np.float32([[1, 0], [np.nan, 0]])
    with pytest.raises(DataError, match="not finite; build the index again"):
        nearest(np.float32([[1, 0]]), stored(documents), similarity="dot", k=1)


def test_nothing_to_ask():
    hits = nearest(np.empty((0, 2), dtype=np.float32), stored(np.eye(2, dtype=np.float32)), similarity=None, k=1)
    assert hits.rows_QK.shape == (0, 1)


def test_ties_keep_the_earlier_row():
    best = Best(1, 2)
    best.add(np.float32([[1, 2, 2, 2]]), 0)
    best.add(np.float32([[2, 3]]), 4)
    assert best.rows_QK.tolist() == [[5, 1]]


def test_signs_say_nothing_about_distances():
    with pytest.raises(UsageError, match="binary vectors keep directions, but this model's similarity is euclidean"):
        require_signs_fit("euclidean", "binary")
