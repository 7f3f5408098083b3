"""The scores of a search at each number of dimensions and each precision of its vectors.

In: an index with whole vectors, query vectors, judgments. Out: per setting the scores of each query, and how much the
mean differs from that of the first setting, with a paired 95% interval: the same queries are drawn for both.

Q queries, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minilm.errors import UsageError
from minilm.infer.api import LoadedModel
from minilm.infer.vector_precision import STORED_TYPES, Float32s, stored_width
from minilm.model.precision import VectorPrecision
from minilm.retrieval.index import Index, IndexFacts, Searcher
from minilm.retrieval.rerank import reranked
from minilm.retrieval.search import Hits, nearest, require_signs_fit
from minilm.retrieval.vectors import SmallerRows, VectorRows
from minilm.score.bootstrap import interval, resampled_sums
from minilm.score.retrieval import Judgments, RetrievalMetric, RetrievalScores, Run, retrieval_scores
from minilm.tally import reporting_tally

_DEPTH = 100  # documents found for each query, at least


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Vectors that are scored; `reranker` is the name of a model that sorts what they find, "" for none."""

    dimensions: int
    vectors: VectorPrecision
    reranker: str = ""

    @property
    def bytes_per_vector(self) -> int:
        """Size of a stored vector."""
        return stored_width(self.dimensions, self.vectors) * np.dtype(STORED_TYPES[self.vectors]).itemsize


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of a setting; `difference` is to the first one, with the ends of its interval, None for the first."""

    setting: Setting
    scores: RetrievalScores
    interval: tuple[float, float]
    difference: tuple[float, float, float] | None

    @property
    def mean(self) -> float:
        """The score."""
        return float(self.scores.values_QM[:, 0].mean())


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What all settings share.

    Attributes:
        searcher: the documents, and what encodes queries.
        names: ids of the queries.
        texts: of the queries.
        judgments: gains by query and document.
        metric: the score.
        skip_same_id: leave out a document that has the id of the query, as BEIR does.
    """

    searcher: Searcher
    names: Sequence[str]
    texts: Sequence[str]
    judgments: Judgments
    metric: RetrievalMetric
    skip_same_id: bool = False

    def scored(
        self,
        queries_QD: Float32s,
        settings: Sequence[Setting],
        reranker: LoadedModel | None = None,
        candidates: int = 0,
    ) -> Iterator[Scored]:
        """Score each setting; with a reranker then also the best `candidates` of the first setting, sorted by it.

        The index holds what the settings ask for, see `require_held`.
        """
        first: Scored | None = None
        for setting in settings:
            hits = self._search(queries_QD, setting, candidates if first is None else 0)
            scored = self._score(hits, setting, first)
            if first is None:
                first, best = scored, hits
            yield scored
        if reranker is not None and first is not None:
            found = self._candidates(best, candidates)
            with reporting_tally() as tally:
                sorted_again = reranked(reranker, self.texts, found, self.searcher.index.texts, tally)
            setting = replace(first.setting, reranker=str(reranker.folder))
            yield self._score(sorted_again, setting, first)

    def _candidates(self, hits: Hits, count: int) -> Hits:
        """The best of what was found; a document that is left out comes last."""
        row_of = self.searcher.index.row_of if self.skip_same_id else {}
        own_Q1 = np.array([row_of.get(name, -1) for name in self.names], dtype=np.int64)[:, None]
        order_QK = np.argsort(hits.rows_QK == own_Q1, axis=1, kind="stable")[:, :count]
        return Hits(
            scores_QK=np.take_along_axis(hits.scores_QK, order_QK, axis=1),
            rows_QK=np.take_along_axis(hits.rows_QK, order_QK, axis=1),
        )

    def _search(self, queries_QD: Float32s, setting: Setting, at_least: int) -> Hits:
        index = self.searcher.index
        facts = index.facts
        vectors: VectorRows = index.vectors
        cut = self.searcher.options(setting.dimensions)
        if not _is_held(setting, facts):
            vectors = SmallerRows(vectors, replace(cut, precision=setting.vectors))
        k = max(_DEPTH, at_least, self.metric.k or len(vectors)) + self.skip_same_id
        return nearest(cut.cut(queries_QD), vectors, similarity=facts.similarity, k=k)

    def _score(self, hits: Hits, setting: Setting, first: Scored | None) -> Scored:
        scores = retrieval_scores(self._run(hits), self.judgments, [self.metric])
        values_QM, size = scores.values_QM, len(scores.queries)
        difference = None
        if first is not None:
            apart_QM = values_QM - first.scores.values_QM
            difference = (float(apart_QM.mean()), *interval(resampled_sums(apart_QM)[:, 0] / size))
        ends = interval(resampled_sums(values_QM)[:, 0] / size)
        return Scored(setting=setting, scores=scores, interval=ends, difference=difference)

    def _run(self, hits: Hits) -> Run:
        ids = self.searcher.index.texts.ids
        return {
            name: {
                ids[row]: score
                for row, score in zip(rows, scores, strict=True)
                if not (self.skip_same_id and ids[row] == name)
            }
            for name, rows, scores in zip(self.names, hits.rows_QK.tolist(), hits.scores_QK.tolist(), strict=True)
        }


def require_held(index: Index, settings: Sequence[Setting]) -> None:
    """Raise UsageError unless an index holds the vectors of the settings, or fp32 ones of as many dimensions."""
    facts = index.facts
    for setting in settings:
        if _is_held(setting, facts):
            continue
        if facts.vectors != "fp32" or setting.dimensions > facts.dimensions:
            raise UsageError(
                f"{index.folder} holds {facts.vectors} vectors of {facts.dimensions} dimensions, not enough for "
                f"{setting.vectors} of {setting.dimensions}; build an index with fp32 vectors of as many dimensions, "
                "if the model has them"
            )
        require_signs_fit(facts.similarity, setting.vectors)


def _is_held(setting: Setting, facts: IndexFacts) -> bool:
    return (setting.dimensions, setting.vectors) == (facts.dimensions, facts.vectors)
