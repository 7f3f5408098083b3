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
from minilm.infer.predictions import ranking_scores, require_one_score, scores_of
from minilm.infer.vector_precision import Float32s
from minilm.retrieval.search import Hits
from minilm.tally import Tally


def reranked(model: LoadedModel, queries: Sequence[str], hits: Hits, texts: TextStore, tally: Tally) -> Hits:
    """Sort the hits of each query by the scores of a reranker; of equal scores the one that was first stays first.

    `tally` counts the pairs that were truncated.

    Raises:
        UsageError: the model has no score for a pair of texts.
        DataError: a score is not finite.
    """
    scores_QK, rows_QK = np.empty_like(hits.scores_QK), np.empty_like(hits.rows_QK)
    for number, query in enumerate(queries):
        rows_K = hits.rows_QK[number]
        raw_K = raw_scores_of(model, query, [texts.text(row) for row in rows_K.tolist()], tally)
        scores_K = ranking_scores(raw_K, model.activation)
        order = np.argsort(-scores_K, kind="stable")
        scores_QK[number], rows_QK[number] = scores_K[order], rows_K[order]
    return Hits(scores_QK=scores_QK, rows_QK=rows_QK)


def raw_scores_of(model: LoadedModel, query: str, texts: Sequence[str], tally: Tally) -> Float32s:
    """The score of each text for a query before the activation of the folder, `[K]`.

    As `score_pairs`, but `tally` counts the pairs of all queries.
    """
    require_one_score(model)
    pairs = (((query, text), f"query {query!r:.60} with {text!r:.60}") for text in texts)
    return scores_of(model, pairs, raw_scores=True, tally=tally)
