"""Which candidates of a query become its negatives: the selection of sentence-transformers' `mine_hard_negatives`.

In: the scores of K candidates and of the positives of one query. Out: the chosen candidates, best first.

Positives are never chosen. What lies too close to the positive with the lowest score, or outside the limits, is left
out; of the rest, ranks `range_min` to `range_max` remain, and of those the best or a random sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minilm.infer.vector_precision import Float32s
from minilm.retrieval.settings import MiningSettings


def choose(
    scores_K: Float32s,
    is_positive_K: NDArray[np.bool_],
    positive_scores: Float32s,
    settings: MiningSettings,
    *,
    last_rank: int,
    generator: np.random.Generator,
) -> list[int]:
    """Numbers of the chosen candidates, best first; candidates with equal scores keep their order.

    Args:
        scores_K: of the candidates; -inf for none.
        is_positive_K: which candidates are positives of the query.
        positive_scores: of all positives of the query, at least one.
        settings: the limits.
        last_rank: see `MiningSettings.last_rank`.
        generator: of the random choice.
    """
    fits_K = np.isfinite(scores_K) & ~is_positive_K
    least = positive_scores.min()
    if settings.absolute_margin is not None:
        fits_K &= scores_K + np.float32(settings.absolute_margin) <= least
    if settings.relative_margin is not None:
        fits_K &= scores_K <= least - np.abs(least) * np.float32(settings.relative_margin)
    if settings.max_score is not None:
        fits_K &= scores_K <= np.float32(settings.max_score)
    if settings.min_score is not None:
        fits_K &= scores_K >= np.float32(settings.min_score)
    order = np.argsort(-scores_K, kind="stable")
    ranked = order[fits_K[order]][settings.range_min : last_rank]
    if settings.sampling == "random" and len(ranked) > settings.negatives:
        ranked = ranked[np.sort(generator.permutation(len(ranked))[: settings.negatives])]
    chosen: list[int] = ranked[: settings.negatives].tolist()
    return chosen
