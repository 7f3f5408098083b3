"""What a search has found, sorted again by a model that reads query and document together.

In: queries, hits, and the texts of the documents. Out: the same rows with the scores of that model, best first; they
are those before its activation, so that scores which a sigmoid makes equal still have an order.

Q queries, K hits of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilm.files.text_store import TextStore
from minilm.infer.api import LoadedModel
from minilm.infer.predictions import ranking_scores
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
        raw_K = model.score_pairs([(query, texts.text(row)) for row in rows_K.tolist()], raw_scores=True)
        scores_K = ranking_scores(raw_K, model.activation)
        order = np.argsort(-scores_K, kind="stable")
        scores_QK[number], rows_QK[number] = scores_K[order], rows_K[order]
    return Hits(scores_QK=scores_QK, rows_QK=rows_QK)
