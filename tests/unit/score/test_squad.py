"""SQuAD scores follow the official script; unscorable input is reported."""

from __future__ import annotations

import pytest

from minilm.errors import DataError
from minilm.score.matching import match_ids
from minilm.score.squad import (
    SquadReference,
    normalize_answer,
    per_question_scores,
    squad_metrics,
    threshold_curve,
)


def reference(key: str, *answers: str) -> SquadReference:
    return SquadReference(id=key, answers=answers)


QUESTIONS = [
    reference("a", "the Denver Broncos", "Broncos"),
    reference("b", "10th and 11th centuries"),
    reference("no1"),
    reference("no2"),
]
ANSWERS = {"a": "Broncos!", "b": "in the 10th", "no1": "", "no2": "France"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat,\tsat.", "cat sat"),
        ("an A the", ""),
        ("AC/DC-like", "acdclike"),
        ("theory a-the", "theory athe"),
        ("“the” naïve", "“ ” naïve"),
    ],
    ids=repr,
)
def test_answers_are_normalized(text, expected):
    """ASCII punctuation is removed before the articles; other punctuation stays."""
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("answers", "prediction", "exact", "f1"),
    [
        (["Denver Broncos", "Broncos"], "the broncos", 1, 1),
        (["one two three four"], "two three five", 0, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
        (["b b c"], "b b b", 0, 2 / 3),
        (["x"], "y", 0, 0),
        ([], "", 1, 1),
        ([], "the", 1, 1),
        ([], "word", 0, 0),
        (["word"], "", 0, 0),
        (["the", "!"], "", 1, 1),
        (["the", "word"], "", 0, 0),
    ],
)
def test_one_question_has_the_scores_of_its_best_gold_answer(answers, prediction, exact, f1):
    """The best gold answer counts; gold answers that normalize to nothing are ignored unless there is no other."""
    score = per_question_scores([reference("q", *answers)], {"q": prediction})["q"]
    assert (score.exact, score.f1) == (exact, f1)


def test_keys_come_in_the_official_order():
    scores = squad_metrics(QUESTIONS, ANSWERS, na_probs=dict.fromkeys(ANSWERS, 0.5))
    groups = [f"{prefix}{name}" for prefix in ("", "HasAns_", "NoAns_") for name in ("exact", "f1", "total")]
    assert list(scores) == [*groups, "best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]
    assert scores["exact"] == 50.0
    assert scores["HasAns_f1"] == pytest.approx(100 * (1 + 2 * (1 / 2) * (1 / 4) / (3 / 4)) / 2)
    assert scores["NoAns_exact"] == 50.0
    assert (scores["total"], scores["HasAns_total"], scores["NoAns_total"]) == (4, 2, 2)


def test_without_unanswerable_questions_there_is_no_such_group():
    scores = squad_metrics(QUESTIONS[:2], ANSWERS)
    assert list(scores) == ["exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"]


def test_above_the_threshold_is_no_answer():
    """Equal to the threshold still answers; 'no answer' is correct exactly for unanswerable questions."""
    na_probs = {"a": 0.5, "b": 0.9, "no1": 0.9, "no2": 0.9}
    scores = squad_metrics(QUESTIONS, ANSWERS, na_probs=na_probs, na_prob_threshold=0.5)
    assert (scores["HasAns_exact"], scores["HasAns_f1"], scores["NoAns_exact"]) == (50.0, 50.0, 100.0)


def test_best_threshold_is_the_first_of_the_largest_sums():
    na_probs = {"a": 0.2, "no2": 0.3, "b": 0.1, "no1": 0.4}
    scores = squad_metrics(QUESTIONS, ANSWERS, na_probs=na_probs)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (75.0, 0.2)
    assert scores["best_f1_thresh"] == 0.2


def test_best_threshold_counts_an_article_as_an_answer():
    """An official quirk: "the" scores 1 for an unanswerable question, but loses 1 in the search."""
    scores = squad_metrics([reference("n")], {"n": "the"}, na_probs={"n": -3.0})
    assert (scores["exact"], scores["best_exact"], scores["best_exact_thresh"]) == (100.0, 100.0, 0.0)
    both = squad_metrics([reference("n"), reference("a", "x")], {"n": "the", "a": "x"}, na_probs={"n": -3, "a": -2})
    assert both["best_exact"] == 50.0


@pytest.mark.parametrize("key", ["a", "no1"])
def test_a_missing_prediction_is_wrong_everywhere(key):
    """Also for an unanswerable question, whatever its na_prob: nothing was predicted."""
    answers = {one: text for one, text in ANSWERS.items() if one != key}
    na_probs = {"a": 0.1, "b": 0.2, "no1": 5.0, "no2": 5.0}
    full = squad_metrics(QUESTIONS, ANSWERS, na_probs=na_probs)
    less = squad_metrics(QUESTIONS, answers, na_probs=na_probs)
    assert per_question_scores(QUESTIONS, answers)[key].exact == 0
    assert less["total"] == 4
    assert less["exact"] == full["exact"] - 25
    assert less["best_exact"] == full["best_exact"] - 25
    assert threshold_curve(QUESTIONS, answers, na_probs)[0].exact <= full["exact"]


def test_the_curve_is_the_score_at_each_threshold():
    na_probs = {"a": 0.5, "b": 0.5, "no1": -2.0, "no2": 0.7, "other": 0.6}
    answers = {key: ANSWERS[key] for key in ("a", "b", "no2")}
    curve = threshold_curve(QUESTIONS, answers, na_probs)
    assert [point.threshold for point in curve] == [0.5, 0.7]
    for point in curve:
        scores = squad_metrics(QUESTIONS, answers, na_probs=na_probs, na_prob_threshold=point.threshold)
        assert (point.exact, point.f1) == pytest.approx((scores["exact"], scores["f1"]))


@pytest.mark.parametrize("function", [squad_metrics, threshold_curve])
def test_a_prediction_without_na_prob_is_an_error(function):
    with pytest.raises(DataError) as caught:
        function(QUESTIONS, ANSWERS, na_probs={"a": 0.0, "no1": 0.0})
    assert str(caught.value) == (
        "2 questions with a prediction have no na_prob (first: 'b'); "
        "provide na_prob for each, or score without na_probs"
    )


def test_no_question_is_an_error():
    with pytest.raises(DataError, match=r"^there are no questions to score: the references are empty$"):
        squad_metrics([], {})


def test_ids_without_a_partner_are_counted_with_the_first():
    match = match_ids(["a", "b", "c"], ["x", "c", "y"])
    assert (match.missing, match.extra) == (("a", "b"), ("x", "y"))
    assert match.missing_finding() == "2 of 3 references have no prediction and count as wrong (first: 'a')"
    assert match.extra_finding() == "2 predictions have no reference and will be ignored (first: 'x')"
    whole = match_ids(["a"], ["a"])
    assert (whole.missing_finding(), whole.extra_finding()) == ("", "")


def test_no_common_id_is_an_error_with_an_example_of_each_side():
    with pytest.raises(DataError) as caught:
        match_ids(["a1", "a2"], ["b1"])
    assert str(caught.value) == (
        "no prediction id matches a reference id: prediction ids look like 'b1', "
        "reference ids like 'a1'; check that the files belong together"
    )
