"""Retrieval scores: nDCG, MRR, MAP, recall and precision of rankings, with the numbers of trec_eval.

In: for each of Q queries the gains of its judged documents, and a score for each of the N documents found. Out: M
numbers from 0 to 1 per query, `[Q, M]`; a score is their mean. A document with a gain above 0 is relevant. As in
trec_eval 9: the gain is the grade, a negative grade means not judged, documents are sorted by score in single precision
and then by id, both descending, and a query without relevant documents counts 0. A query without results counts 0, as
with its flag -c; without that flag, in pytrec_eval and in BEIR such a query is left out. Checked against pytrec_eval.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError

Floats = NDArray[np.float64]
Judgments = Mapping[str, Mapping[str, float]]
"""The gain of each judged document, by query; 0 or less: not relevant."""
Run = Mapping[str, Mapping[str, float]]
"""The score of each document that was found, by query."""

DEFAULT_METRICS = ("ndcg@10", "mrr@10", "map", "recall@100", "precision@10")
_METRIC = re.compile(r"([a-z]+)(?:@([1-9][0-9]{0,8}))?")
_GAIN = re.compile(r"\s*(-?[0-9]{1,9})\s*=\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*")


@dataclass(frozen=True, kw_only=True)
class RetrievalMetric:
    """A metric and its k, the number of first documents that count; None: all of them."""

    kind: str
    k: int | None = None

    def __str__(self) -> str:
        """Its name, such as `ndcg@10`."""
        return self.kind if self.k is None else f"{self.kind}@{self.k}"

    @property
    def definition(self) -> str:
        """The measure of trec_eval that has the same numbers."""
        whole, cut = _TREC_NAMES[self.kind]
        return whole if self.k is None else cut.format(k=self.k)


def parse_metric(text: str) -> RetrievalMetric:
    """Read the name of a metric, such as `ndcg@10` or `map`, without regard to case.

    Raises:
        UsageError: there is no such metric, or precision has no k.
    """
    found = _METRIC.fullmatch(text.lower())
    kind = found[1] if found else text.lower().partition("@")[0]
    if kind not in _METRICS:
        close = get_close_matches(kind, _METRICS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(_METRICS)}"
        raise UsageError(f"unknown retrieval metric {text!r}: {hint}")
    if found is None:
        raise UsageError(f"metric {text!r}: expected a number from 1 after the @, such as {kind}@10")
    if found[2] is None and kind == "precision":
        raise UsageError("metric 'precision': expected the number of first documents that count, such as precision@10")
    return RetrievalMetric(kind=kind, k=int(found[2]) if found[2] else None)


@dataclass(frozen=True, kw_only=True)
class RetrievalScores:
    """The numbers of each query, `values_QM`, in the order of `queries` and `metrics`."""

    metrics: tuple[RetrievalMetric, ...]
    queries: tuple[str, ...]
    values_QM: Floats

    def means(self) -> dict[str, float]:
        """The scores by name of the metric: the mean over the queries."""
        return dict(zip(map(str, self.metrics), self.values_QM.mean(axis=0).tolist(), strict=True))


def retrieval_scores(run: Run, judgments: Judgments, metrics: Sequence[RetrievalMetric]) -> RetrievalScores:
    """Score the results of each query that has judgments; queries of the run without any do not count.

    Scores that are not finite have no order: a query with one has NaN, and so have the means.

    Args:
        run: scores by query and document.
        judgments: gains by query and document.
        metrics: M metrics.

    Raises:
        DataError: no document is relevant to any query.
    """
    queries = tuple(query for query, gains in judgments.items() if gains)
    if not any(gain > 0 for query in queries for gain in judgments[query].values()):
        raise DataError("no document is relevant to any query; expected at least one with a gain above 0")
    values = [_query_numbers(run.get(query, {}), judgments[query], metrics) for query in queries]
    return RetrievalScores(metrics=tuple(metrics), queries=queries, values_QM=np.array(values, dtype=np.float64))


def _query_numbers(
    scores: Mapping[str, float], gains: Mapping[str, float], metrics: Sequence[RetrievalMetric]
) -> list[float]:
    if not all(map(math.isfinite, scores.values())):
        return [math.nan] * len(metrics)
    return query_scores(ranked(scores), gains, metrics)


def ranked(scores: Mapping[str, float]) -> list[str]:
    """The documents in trec_eval's order: by score in single precision, then by id, both descending."""
    with np.errstate(over="ignore"):
        single_N = np.fromiter(scores.values(), dtype=np.float64, count=len(scores)).astype(np.float32)
    return [document for _, document in sorted(zip(single_N.tolist(), scores, strict=True), reverse=True)]


def query_scores(ranking: Sequence[str], gains: Mapping[str, float], metrics: Sequence[RetrievalMetric]) -> list[float]:
    """Score one ranking.

    Args:
        ranking: the documents that were found, best first, without repetitions.
        gains: of each judged document.
        metrics: M metrics.

    Returns:
        M numbers; 0 if no document is relevant.
    """
    best = np.sort(np.array([gain for gain in gains.values() if gain > 0], dtype=np.float64))[::-1]
    if not len(best):
        return [0.0] * len(metrics)
    found_N = np.array([max(0.0, gains.get(document, 0.0)) for document in ranking], dtype=np.float64)
    return [_METRICS[metric.kind](found_N[: metric.k], best, metric.k) for metric in metrics]


def _ndcg(found_N: Floats, best: Floats, k: int | None) -> float:
    return _discounted(found_N) / _discounted(best[:k])


def _discounted(gains: Floats) -> float:
    return float(gains @ (1 / np.log2(np.arange(2, len(gains) + 2))))


def _mrr(found_N: Floats, best: Floats, k: int | None) -> float:
    hits = np.flatnonzero(found_N)
    return 1 / (int(hits[0]) + 1) if len(hits) else 0.0


def _map(found_N: Floats, best: Floats, k: int | None) -> float:
    ranks = np.flatnonzero(found_N) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum()) / len(best)


def _recall(found_N: Floats, best: Floats, k: int | None) -> float:
    return np.count_nonzero(found_N) / len(best)


def _precision(found_N: Floats, best: Floats, k: int | None) -> float:
    return np.count_nonzero(found_N) / (k or 1)


_METRICS: Mapping[str, Callable[[Floats, Floats, int | None], float]] = {
    "ndcg": _ndcg,
    "mrr": _mrr,
    "map": _map,
    "recall": _recall,
    "precision": _precision,
}
"""From the gains of the first k documents found and of all relevant documents, descending."""
_TREC_NAMES: Mapping[str, tuple[str, str]] = {
    "ndcg": ("ndcg", "ndcg_cut_{k}"),
    "mrr": ("recip_rank", "recip_rank of the first {k}"),
    "map": ("map", "map_cut_{k}"),
    "recall": ("set_recall", "recall_{k}"),
    "precision": ("", "P_{k}"),
}


def parse_gains(text: str | None) -> dict[int, float]:
    """Read the gains of grades, such as `1=4,2=3`; None: no gains, so that the grades count.

    Raises:
        UsageError: the text has another form, or a grade twice.
    """
    if text is None:
        return {}
    pairs = [_GAIN.fullmatch(part) for part in text.split(",")]
    gains = {int(pair[1]): float(pair[2]) for pair in pairs if pair}
    if len(gains) < len(pairs):
        raise UsageError(
            f"gains {text!r}: expected different grades, each with a gain of at least 0, such as 1=4,2=3,3=2,4=1"
        )
    return gains


def gains_of(
    grades: Mapping[str, Mapping[str, int]], gains: Mapping[int, float], where: Callable[[str, str | None], str]
) -> Judgments:
    """Replace each grade by its gain; without `gains`, and for a negative grade not in it, the gain is the grade.

    Args:
        grades: by query and document.
        gains: by grade.
        where: as for `judgment_findings`.

    Raises:
        DataError: a grade above 0 is not in `gains`.
    """
    if not gains:
        return grades
    for query, documents in grades.items():
        for document, grade in documents.items():
            if grade > 0 and grade not in gains:
                raise DataError(
                    f"{where(query, document)}: query {query!r}, document {document!r}: grade {grade} has no gain, "
                    f"found gains for {', '.join(map(str, gains))}; add {grade}=GAIN"
                )
    return {
        query: {document: gains.get(grade, grade) for document, grade in documents.items()}
        for query, documents in grades.items()
    }


def judgment_findings(judgments: Judgments, where: Callable[[str, str | None], str]) -> list[str]:
    """Messages about negative gains, and about queries without a relevant document.

    Args:
        judgments: gains by query and document.
        where: the location of a judgment of a query, or of the first one if no document is named.
    """
    negative = [(query, document) for query, gains in judgments.items() for document, gain in gains.items() if gain < 0]
    barren = [query for query, gains in judgments.items() if not any(gain > 0 for gain in gains.values())]
    total = sum(map(len, judgments.values()))
    found = []
    if negative:
        query, document = negative[0]
        found.append(
            f"{where(query, document)}: {len(negative):,} of {total:,} judgments have a negative grade and count as "
            f"not judged (first: query {query!r}, document {document!r})"
        )
    if barren:
        found.append(
            f"{where(barren[0], None)}: {len(barren):,} of {len(judgments):,} queries have no relevant document and "
            f"count as 0 (first: {barren[0]!r})"
        )
    return found


def unjudged_finding(run: Run, judgments: Judgments) -> str:
    """A message if no document of any query in both is judged; else ""."""
    both = [query for query in judgments if run.get(query)]
    if not both or any(not run[query].keys().isdisjoint(judgments[query]) for query in both):
        return ""
    first = both[0]
    return (
        f"no document found for any query is judged: of query {first!r} documents found look like "
        f"{_first(run[first])!r}, judged ones like {_first(judgments[first])!r}; check that the files belong together"
    )


def _first(names: Iterable[str]) -> str:
    return next(iter(names))
