"""Held-out numbers of text vectors: the correlation of similarities and scores of pairs of texts.

In: scored pairs, vectors of their texts, the similarity that vectors are compared by. Out: metrics times 100, and the
analysis of a report.

R pairs, W width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minilm.finetune.sequences import Array
from minilm.finetune.task import NUM_EXAMPLES, Analysis
from minilm.infer.similarity import pairwise_similarities
from minilm.score.glue import compute_metrics
from minilm.tasks.embed.rows import EmbedRow

_METRICS = ("spearmanr", "pearson")


def of_pairs(vectors: Array, similarity: str | None) -> Array:
    """The similarities of texts 0 and 1, 2 and 3, ..., `[R]`, of vectors `[2 R, W]`."""
    return pairwise_similarities(vectors[0::2], vectors[1::2], similarity)


def numbers_of(rows: Sequence[EmbedRow], found_R: Array) -> dict[str, float]:
    """The correlations of the similarities of pairs with their scores, times 100."""
    return compute_metrics(_METRICS, [row.scores[0] for row in rows], found_R.astype(np.float64).tolist())


def analysis_of(rows: Sequence[EmbedRow], found_R: Array, similarity: str) -> Analysis:
    """The pairs whose rank by similarity is furthest from their rank by score, and all similarities."""
    scores = np.array([row.scores[0] for row in rows])
    ranks = [_ranks(values) for values in (scores, found_R.astype(np.float64))]
    shown = np.argsort(-np.abs(ranks[0] - ranks[1]), kind="stable")[:NUM_EXAMPLES]
    return Analysis(
        tables={},
        curves={},
        examples=[
            {
                "first text": rows[index].texts[0],
                "second text": rows[index].texts[1],
                "score": f"{scores[index]:g}",
                similarity: f"{found_R[index]:.3f}",
                "location": rows[index].location,
            }
            for index in shown
        ],
        predictions=[{"id": str(number), "prediction": round(float(one), 6)} for number, one in enumerate(found_R)],
    )


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each value in their order."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")
