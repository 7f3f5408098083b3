"""Exact search in blocks: the K best of N vectors for each query, without ever holding `[Q, N]` scores.

In: query vectors, stored vectors, the name of a similarity. Out: scores and rows of the best, best first; of equal
scores the earlier row. Products run on the kernels, which read vectors as they are stored; numpy computes distances,
and everything where there are no kernels. Memory: one block of vectors (`VALUES_PER_BLOCK`), in numpy also its scores
(`QUERIES_PER_BLOCK`).

Q queries, N vectors, D dimensions, K best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError
from minilm.infer.engines.threads import usable_threads
from minilm.infer.similarity import similarities
from minilm.infer.vector_precision import Float32s
from minilm.infer.vectors import normalized
from minilm.kernels.search import Compared, SearchKernel
from minilm.model.precision import VectorPrecision
from minilm.retrieval.vectors import VectorRows, blocks

Rows = NDArray[np.int64]

QUERIES_PER_BLOCK = 256
_PRODUCTS = (None, "cosine", "dot")  # None: a folder that names no similarity has that of cosine


@dataclass(frozen=True, kw_only=True)
class Hits:
    """The best for each query: `scores_QK` and `rows_QK`, best first."""

    scores_QK: Float32s
    rows_QK: Rows


def nearest(queries_QD: Float32s, vectors: VectorRows, *, similarity: str | None, k: int) -> Hits:
    """The K = min(k, N) vectors with the highest similarity to each query.

    Raises:
        DataError: a similarity is not finite, since a stored vector is damaged.
    """
    k = min(k, len(vectors))
    kernel = SearchKernel.shared(usable_threads()) if similarity in _PRODUCTS else None
    parts = [queries_QD[at : at + QUERIES_PER_BLOCK] for at in range(0, len(queries_QD), QUERIES_PER_BLOCK)]
    best = [Best(len(part), k) for part in parts]
    for begin, block in blocks(vectors):
        if kernel is None:
            numbers = block.numbers()
            for part, kept in zip(parts, best, strict=True):
                kept.add(similarities(part, numbers, similarity), begin)
        else:
            cosine = similarity != "dot"
            compared = block.compared(cosine=cosine)
            for part, kept in zip(parts, best, strict=True):
                kept.improve(kernel, normalized(part) if cosine else part, compared, begin)
    none = Best(0, k)
    return Hits(
        scores_QK=np.concatenate([one.scores_QK for one in [none, *best]]),
        rows_QK=np.concatenate([one.rows_QK for one in [none, *best]]),
    )


class Best:
    """The best of what has been added, for each query."""

    def __init__(self, queries: int, k: int) -> None:
        """Start with nothing: scores of -inf, rows of -1."""
        self.scores_QK: Float32s = np.full((queries, k), -np.inf, dtype=np.float32)
        self.rows_QK: Rows = np.full((queries, k), -1, dtype=np.int64)

    def improve(self, kernel: SearchKernel, queries_QD: Float32s, vectors: Compared, begin: int) -> None:
        """Add the vectors of the rows from `begin`, which are later than all before.

        Raises:
            DataError: a score is not finite.
        """
        if not kernel.improve(self.scores_QK, self.rows_QK, queries_QD, vectors, begin=begin):
            raise _not_finite(begin)

    def add(self, scores_QN: Float32s, begin: int) -> None:
        """Add the scores of the rows from `begin`, which are later than all before.

        Raises:
            DataError: a score is not finite.
        """
        if not np.isfinite(scores_QN).all():
            raise _not_finite(begin)
        k = self.scores_QK.shape[1]
        floor_Q1 = self.scores_QK[:, -1:]
        better_QN = scores_QN > floor_Q1
        if scores_QN.shape[1] > k and np.isneginf(floor_Q1).any():
            better_QN &= scores_QN >= np.partition(scores_QN, -k, axis=1)[:, -k, None]
        for query in np.flatnonzero(better_QN.any(1)):
            found = np.flatnonzero(better_QN[query])
            scores = np.concatenate([self.scores_QK[query], scores_QN[query, found]])
            rows = np.concatenate([self.rows_QK[query], found + begin])
            order = np.argsort(-scores, kind="stable")[:k]
            self.scores_QK[query], self.rows_QK[query] = scores[order], rows[order]


def _not_finite(begin: int) -> DataError:
    return DataError(f"a similarity among rows {begin:,} and following is not finite; build the index again")


def require_signs_fit(similarity: str | None, precision: VectorPrecision) -> None:
    """Raise UsageError for binary vectors and a similarity that signs say nothing about."""
    if precision == "binary" and similarity not in (None, "cosine", "dot"):
        raise UsageError(
            f"binary vectors keep directions, but this model's similarity is {similarity}; use int8 or fp32"
        )
