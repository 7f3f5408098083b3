"""Retrieval scores: by hand; names and gains; what the findings say. `property/` compares with trec_eval."""

from __future__ import annotations

from math import isnan, log2

import numpy as np
import pytest

from minilm.errors import DataError, UsageError
from minilm.score.retrieval import (
    DEFAULT_METRICS,
    gains_of,
    judgment_findings,
    parse_gains,
    parse_metric,
    query_scores,
    ranked,
    retrieval_scores,
    unjudged_finding,
)


def numbers(names: str, ranking: str, **gains: float) -> list[float]:
    return query_scores(list(ranking), gains, [parse_metric(name) for name in names.split()])


def test_numbers_by_hand():
    """Found: nothing, gain 1, nothing, gain 3; a document with gain 2 is not found."""
    gains = {"b": 1, "d": 3, "e": 2, "a": 0, "c": -1}
    ideal = 3 + 2 / log2(3) + 1 / 2
    found = 1 / log2(3) + 3 / log2(5)
    assert numbers("ndcg ndcg@2 ndcg@10", "abcd", **gains) == pytest.approx(
        [found / ideal, 1 / log2(3) / (3 + 2 / log2(3)), found / ideal]
    )
    assert numbers("mrr mrr@2 mrr@1", "abcd", **gains) == [0.5, 0.5, 0]
    assert numbers("map map@2", "abcd", **gains) == pytest.approx([(1 / 2 + 2 / 4) / 3, 1 / 2 / 3])
    assert numbers("recall recall@1 recall@4", "abcd", **gains) == pytest.approx([2 / 3, 0, 2 / 3])
    assert numbers("precision@1 precision@2 precision@10", "abcd", **gains) == pytest.approx([0, 1 / 2, 2 / 10])


@pytest.mark.parametrize(("ranking", "gains"), [("", {"a": 1}), ("ab", {"a": 0, "b": -2}), ("", {})])
def test_nothing_found_or_nothing_relevant_counts_0(ranking, gains):
    assert numbers(" ".join(DEFAULT_METRICS), ranking, **gains) == [0] * len(DEFAULT_METRICS)


def test_equal_scores_are_ordered_by_id_descending():
    assert ranked({"a": 1, "c": 1, "b": 2, "10": 1, "9": 1}) == ["b", "c", "a", "9", "10"]
    assert ranked({"a": 0.1 + 1e-12, "b": 0.1}) == ["b", "a"]  # equal in single precision, as in trec_eval 9
    assert ranked({"a": 2e60, "b": 1e60}) == ["b", "a"]


def test_a_score_is_the_mean_over_the_judged_queries():
    run = {"one": {"a": 1.0}, "extra": {"a": 1.0}}
    judgments = {"one": {"a": 1}, "two": {"a": 1}, "unjudged": {}}
    scores = retrieval_scores(run, judgments, [parse_metric("mrr")])
    assert (scores.queries, scores.values_QM.tolist()) == (("one", "two"), [[1], [0]])
    assert scores.means() == {"mrr": 0.5}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_orders_nothing(bad):
    run, judgments = {"one": {"a": 1.0, "b": bad}, "two": {"a": 1.0}}, {"one": {"a": 1}, "two": {"a": 1}}
    scores = retrieval_scores(run, judgments, [parse_metric("mrr"), parse_metric("map")])
    assert np.isnan(scores.values_QM).tolist() == [[True, True], [False, False]]
    assert all(map(isnan, scores.means().values()))


def test_nothing_relevant_at_all_is_an_error():
    with pytest.raises(DataError, match="no document is relevant to any query; expected at least one"):
        retrieval_scores({"q": {"a": 1.0}}, {"q": {"a": 0, "b": -1}}, [parse_metric("map")])


def test_names_of_metrics():
    assert [str(parse_metric(name)) for name in ("nDCG@10", "MAP", "mrr@1")] == ["ndcg@10", "map", "mrr@1"]
    assert [parse_metric(name).definition for name in ("ndcg@5", "mrr@5", "mrr", "recall", "precision@5")] == [
        "ndcg_cut_5",
        "recip_rank of the first 5",
        "recip_rank",
        "set_recall",
        "P_5",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndgc@10", "unknown retrieval metric 'ndgc@10': did you mean 'ndcg'?"),
        ("bleu", "unknown retrieval metric 'bleu': expected one of ndcg, mrr, map, recall, precision"),
        ("map@0", "metric 'map@0': expected a number from 1 after the @, such as map@10"),
        ("map@ten", "metric 'map@ten': expected a number from 1 after the @, such as map@10"),
        ("precision", "metric 'precision': expected the number of first documents that count, such as precision@10"),
    ],
)
def test_wrong_names_of_metrics(name, message):
    with pytest.raises(UsageError) as caught:
        parse_metric(name)
    assert str(caught.value) == message


def test_gains_replace_grades():
    """Cranfield: grade 1 is the best and 4 the least; grade -1 stays negative, so it is left out."""
    table = parse_gains("1=4, 2=3,3=2,4=0.5")
    assert table == {1: 4, 2: 3, 3: 2, 4: 0.5}
    grades = {"q": {"a": 1, "b": 4, "c": -1, "d": 0}}
    assert gains_of(grades, table, "{}:{}".format) == {"q": {"a": 4, "b": 0.5, "c": -1, "d": 0}}
    assert gains_of({"q": {"a": 1}}, {}, "{}:{}".format) == {"q": {"a": 1}}
    message = r"^q:a: query 'q', document 'a': grade 5 has no gain, found gains for 1, 2, 3, 4; add 5=GAIN"
    with pytest.raises(DataError, match=message):
        gains_of({"q": {"a": 5}}, table, "{}:{}".format)


@pytest.mark.parametrize("text", ["", "1", "1=", "1=a", "1=-2", "1=nan", "1=1e9", "1=2,1=3", "1=2,"])
def test_wrong_gains(text):
    with pytest.raises(UsageError, match=f"gains {text!r}: expected different grades, each with a gain of at least 0"):
        parse_gains(text)


def test_findings_about_judgments():
    def where(query, document):
        return f"qrels:{query}{document or ''}"

    assert judgment_findings({"q": {"a": 1, "b": 0}}, where) == []
    assert judgment_findings({"q": {"a": 1, "b": -1}, "r": {"c": -2}, "s": {"d": 0}}, where) == [
        "qrels:qb: 2 of 4 judgments have a negative grade and count as not judged (first: query 'q', document 'b')",
        "qrels:r: 2 of 3 queries have no relevant document and count as 0 (first: 'r')",
    ]


def test_ids_of_documents_that_do_not_match_are_a_finding():
    judgments = {"q": {"1": 1}, "r": {"2": 1}}
    assert unjudged_finding({"q": {"doc1": 1.0}, "other": {"1": 1.0}}, judgments) == (
        "no document found for any query is judged: of query 'q' documents found look like 'doc1', judged ones like "
        "'1'; check that the files belong together"
    )
    assert unjudged_finding({"q": {"doc1": 1.0}, "r": {"doc1": 1.0, "2": 0.5}}, judgments) == ""
    assert unjudged_finding({}, judgments) == ""
