"""ROUGE: word splitting, clipped hits, sentences, several references, means."""

from __future__ import annotations

import pytest

from minilm.errors import DataError
from minilm.score.rouge.scores import (
    ROUGE_METRICS,
    Overlap,
    rouge_metrics,
    rouge_pair,
    rouge_scores,
    rouge_words,
)
from minilm.score.rouge.stemming import rouge_stem


def hits(prediction: str, *references: str) -> dict[str, tuple[int, int, int]]:
    pair = rouge_pair(prediction, references, stem=rouge_stem)
    return {name: (one.hits, one.predicted, one.expected) for name, one in pair.items()}


def test_words_are_ascii_letters_and_digits_in_lower_case():
    text = "State-of-the-art U.S. $3,000 café\nIt's"
    assert rouge_words(text, str) == [
        ["state", "of", "the", "art", "u", "s", "3", "000", "caf"],
        ["it", "s"],
    ]


def test_a_letter_that_becomes_ascii_only_in_lower_case_does_not_count():
    """The Kelvin sign is not a k: the program sees bytes."""
    assert rouge_words("\u212aelvin", str) == [["elvin"]]


def test_no_word_hits_more_often_than_both_have_it():
    assert hits("the the the cat", "the cat the") == {
        "rouge1": (3, 4, 3),
        "rouge2": (1, 3, 2),
        "rougeL": (2, 4, 3),
        "rougeLsum": (2, 4, 3),
    }


def test_sentences_matter_to_rouge_lsum_alone():
    """Sentences match in any order and in pieces: 2 + 2 words, where a single sentence gives 2."""
    assert hits("c d\na b", "a b\nc d") == {
        "rouge1": (4, 4, 4),
        "rouge2": (2, 3, 3),
        "rougeL": (2, 4, 4),
        "rougeLsum": (4, 4, 4),
    }
    assert hits("a x b", "a b\nb a")["rougeLsum"] == (2, 3, 4), "b was used up by the first sentence"


def test_several_references_are_added_up():
    assert hits("a b c", "a b", "c x y z") == {
        "rouge1": (3, 6, 6),
        "rouge2": (1, 4, 4),
        "rougeL": (3, 6, 6),
        "rougeLsum": (3, 6, 6),
    }


def test_parts_of_a_score_follow_from_its_counts():
    score = Overlap(hits=2, predicted=4, expected=8)
    assert (score.precision, score.recall, score.f) == (0.5, 0.25, pytest.approx(1 / 3))
    nothing = Overlap(hits=0, predicted=0, expected=0)
    assert (nothing.precision, nothing.recall, nothing.f) == (0, 0, 0)


@pytest.mark.parametrize(("prediction", "reference"), [("", "a b"), ("a b", ""), ("", ""), ("\n\n", "?!")])
def test_an_empty_text_scores_0(prediction, reference):
    assert not rouge_scores([prediction], [[reference]], stem=rouge_stem).any()


def test_means_are_over_pairs_and_times_100():
    scores = rouge_scores(["a b", "x"], [["a b"], ["y"]], stem=str)
    assert scores.shape == (2, 4, 3)
    metrics = rouge_metrics(scores)
    assert list(metrics)[:4] == list(ROUGE_METRICS)
    assert metrics == {
        f"{name}{part}": 50.0 for name in ROUGE_METRICS for part in ("", "_precision", "_recall")
    }  # rouge2 too: a single word has no pairs


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], []), (["a"], [["a"], ["b"]])])
def test_unequal_or_no_pairs_are_an_error(predictions, references):
    with pytest.raises(DataError) as caught:
        rouge_scores(predictions, references, stem=str)
    assert str(caught.value) == (
        f"found {len(predictions)} predictions and references for {len(references)}; expected equal counts, at least 1"
    )
