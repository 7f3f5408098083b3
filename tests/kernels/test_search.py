"""The search kernel finds what sorting all scores finds, with the same bits on any threads and in any blocks.

The oracle is the formula in float64, on the numbers that stored vectors stand for.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.commands import in_a_child
from tests.kernels.conftest import runnable

from minilm.errors import UsageError
from minilm.infer.vector_precision import quantized, ranges_of
from minilm.kernels.search import Compared, SearchKernel
from minilm.retrieval.vectors import StoredRows

FEW = settings(max_examples=40, deadline=None)
isas = st.sampled_from(runnable() or ["none"])
precisions = st.sampled_from(["fp32", "int8", "binary"])


def stored(vectors, precision):
    ranges = ranges_of(vectors) if precision == "int8" else None
    return StoredRows(
        stored_NW=quantized(vectors, precision, ranges),
        dimensions=vectors.shape[1],
        precision=precision,
        ranges_2D=ranges,
    )


def searched(rows, queries, k, *, cosine=False, threads=1, per_block=None, kernel=None):
    """Scores and rows of the best, found block by block."""
    kernel = kernel or SearchKernel(threads=threads)
    scores, found = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    size = per_block or len(rows)
    for begin in range(0, len(rows), size):
        block = rows.block(slice(begin, begin + size)).compared(cosine=cosine)
        assert kernel.improve(scores, found, queries, block, begin=begin)
    return scores, found


def exact(rows, queries, *, cosine):
    numbers, asked = rows.numbers().astype(np.float64), queries.astype(np.float64)
    products = asked @ numbers.T
    return products / np.linalg.norm(numbers, axis=1) if cosine else products


@given(isas, precisions, st.booleans(), st.integers(1, 300), st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
@FEW
def test_scores_are_exact_and_sorted(isa, precision, cosine, count, queries, dimensions, seed):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(count, dimensions)).astype(np.float32)
    asked, k = draw.normal(size=(queries, dimensions)).astype(np.float32), min(count, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_ISA", isa)
        rows = stored(vectors, precision)
        scores, found = searched(rows, asked, k, cosine=cosine)
    expected = exact(rows, asked, cosine=cosine)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, found, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :k], rtol=1e-5, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


@given(isas, precisions, st.booleans(), st.integers(1, 700), st.integers(1, 4), st.integers(1, 400))
@FEW
def test_bits_do_not_depend_on_threads_and_blocks(isa, precision, cosine, count, threads, per_block):
    """Vectors come twice, so that equal scores are common."""
    draw = np.random.default_rng(count)
    vectors = np.repeat(draw.normal(size=(count, 20)).astype(np.float32), 2, axis=0)
    asked, k = draw.normal(size=(5, 20)).astype(np.float32), min(2 * count, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_ISA", isa)
        rows = stored(vectors, precision)
        whole = searched(rows, asked, k, cosine=cosine)
        parts = searched(rows, asked, k, cosine=cosine, threads=threads, per_block=per_block)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])
    ties = whole[0][:, 1:] == whole[0][:, :-1]
    assert (np.diff(whole[1], axis=1)[ties] > 0).all()


def test_a_vector_of_zeros_has_the_cosine_0(isa):
    rows = stored(np.float32([[0, 0, 0], [1, 0, 0]]), "fp32")
    scores, found = searched(rows, np.float32([[1, 2, 2]]), 2, cosine=True)
    assert found.tolist() == [[1, 0]]
    np.testing.assert_allclose(scores, [[1, 0]], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cosine", [True, False])
def test_numbers_that_are_not_finite_are_noticed_and_change_nothing(isa, bad, cosine):
    vectors = np.ones((200, 5), np.float32)
    vectors[150, 2] = bad
    scores, found = np.full((1, 2), -np.inf, np.float32), np.full((1, 2), -1, np.int64)
    vectors = Compared(stored_NW=vectors, dimensions=5, cosine=cosine)
    assert not SearchKernel(threads=2).improve(scores, found, np.ones((1, 5), np.float32), vectors, begin=0)
    assert not np.isfinite(scores).any()
    assert (found == -1).all()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (Compared(stored_NW=np.ones((3, 4), np.float32), dimensions=5), r"expected \[N, 5\] and \[Q, 5\]"),
        (Compared(stored_NW=np.ones((3, 5), np.int8), dimensions=5), "a lowest value and a step"),
        (
            Compared(stored_NW=np.ones((3, 5), np.int8), dimensions=5, lowest_D=np.ones(4), steps_D=np.ones(5)),
            "a lowest value and a step for each of 5 dimensions",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(vectors, message):
    scores, found = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int64)
    with pytest.raises(UsageError, match=message):
        SearchKernel(threads=1).improve(scores, found, np.ones((1, 5), np.float32), vectors, begin=0)


def test_a_child_has_its_own():
    rows, asked = stored(np.eye(4, dtype=np.float32), "fp32"), np.eye(4, dtype=np.float32)[:1]
    kernel = SearchKernel.shared(2)
    searched(rows, asked, 1, kernel=kernel)

    def refused() -> str:
        searched(rows, asked, 1, kernel=kernel)
        return "no error"

    assert "its threads do not survive a fork" in in_a_child(refused)
    assert in_a_child(lambda: str(searched(rows, asked, 1, kernel=SearchKernel.shared(2))[1])) == "[[0]]"
