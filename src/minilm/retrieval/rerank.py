"""What a search has found, sorted again by a model that reads query and document together.

In: queries, hits, and the texts of the documents. Out: the same rows with the scores of that model, best first.

Q queries, K hits of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilm.errors import DataError
from minilm.files.text_store import TextStore
from minilm.infer.api import LoadedModel
from minilm.infer.vector_precision import Float32s
from minilm.retrieval.search import Hits


def reranked(model: LoadedModel, queries: Sequence[str], hits: Hits, texts: TextStore) -> Hits:
    """Sort the hits of each query by the scores of a reranker; of equal scores the one that was first stays first.

    Raises:
        UsageError: the model has no score for a pair of texts.
        DataError: a score is not finite.
    """
    scores_QK, rows_QK = np.empty_like(hits.scores_QK), np.empty_like(hits.rows_QK)
    for number, query in enumerate(queries):
        rows_K = hits.rows_QK[number]
        scores_K = pair_scores(model, [(query, texts.text(row)) for row in rows_K.tolist()])
        order = np.argsort(-scores_K, kind="stable")
        scores_QK[number], rows_QK[number] = scores_K[order], rows_K[order]
    return Hits(scores_QK=scores_QK, rows_QK=rows_QK)


def pair_scores(model: LoadedModel, pairs: Sequence[tuple[str, str]]) -> Float32s:
    """The score of each pair; raises DataError if one is not finite, UsageError if the model has none."""
    scores = model.score_pairs(pairs)
    if not np.isfinite(scores).all():
        query, text = pairs[int(np.flatnonzero(~np.isfinite(scores))[0])]
        raise DataError(
            f"{model.folder}: the score of {query!r:.60} and {text!r:.60} is not finite; the weights are damaged"
        )
    return scores
