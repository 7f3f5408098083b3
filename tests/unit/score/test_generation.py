"""BLEU, METEOR and ROUGE-L of the caption evaluation: pooling, counts, corpus scores from sums, degenerate texts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilm.errors import DataError
from minilm.score.generation import (
    GENERATION_METRICS,
    METEOR_NUMBERS,
    ScoredText,
    bleu_counts,
    bleu_scores,
    coco_rouge_l,
    generation_metrics,
    meteor_score,
    pool,
    sums_of,
)


def item(text: str, *references: str) -> ScoredText:
    return ScoredText(text=text, references=references)


def test_rows_of_one_source_are_one_item_with_its_last_prediction():
    found = pool(["p1", "p2", "p3"], [["r1"], ["r2", "r2b"], ["r3"]], ["The Source", "other", "the  source "])
    assert found == [item("p3", "r1", "r3"), item("p2", "r2", "r2b")]


def test_without_keys_every_row_is_an_item():
    assert pool(["a  b\t", "a"], [["r"], ["r"]]) == [item("a b", "r"), item("a", "r")]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((0, 0, 0), "found 0 predictions, references for 0 rows and 0 sources"),
     ((2, 1, 2), "found 2 predictions, references for 1 rows and 2 sources"),
     ((1, 1, 2), "found 1 predictions, references for 1 rows and 2 sources")],
)  # fmt: skip
def test_unequal_or_no_rows_are_an_error(sizes, message):
    predictions, references, keys = sizes
    with pytest.raises(DataError) as caught:
        pool(["p"] * predictions, [["r"]] * references, ["k"] * keys)
    assert str(caught.value) == f"{message}; expected equal counts, at least 1"


def test_bleu_clips_to_the_largest_count_and_uses_the_closest_length():
    counts = bleu_counts(item("the the the cat", "the the dog ran off today", "the cat"))
    assert counts == [4, 2, 4, 3, 2, 1, 3, 2, 0, 0]  # 2 and 6 words are equally close to 4: the shorter


def test_bleu_of_the_corpus_comes_from_sums():
    rows = np.array([bleu_counts(item("a b c d", "a b c d")), bleu_counts(item("a b", "a x y z"))], dtype=float)
    scores = bleu_scores(rows.sum(axis=0))
    brevity = math.exp(1 - 8 / 6)
    assert scores == pytest.approx(
        [brevity * 5 / 6, brevity * math.sqrt(5 / 6 * 3 / 4), brevity * (5 / 8) ** (1 / 3), brevity * (5 / 8) ** 0.25]
    )


def test_a_long_text_has_no_brevity_penalty_and_no_bonus():
    assert bleu_scores(np.array(bleu_counts(item("a b c d", "a b")), dtype=float))[0] == pytest.approx(2 / 4)


def test_rouge_l_takes_the_best_precision_and_the_best_recall():
    precision, recall, beta = 2 / 4, 1 / 1, 1.2**2
    expected = (1 + beta) * precision * recall / (recall + beta * precision)
    assert coco_rouge_l(item("a b c d", "a x y d", "c")) == pytest.approx(expected)


def test_an_empty_text_scores_0_and_is_not_an_error():
    rows = sums_of(pool(["", "a"], [["a b"], [""]]))
    metrics = generation_metrics(rows.sum(axis=0), 2)
    assert metrics.pop("METEOR") != metrics.get("METEOR")  # NaN
    assert metrics == pytest.approx(dict.fromkeys(metrics, 0.0), abs=1e-6)


def meteor_row(*, words: int, reference: int, exact: int, chunks: int) -> np.ndarray:
    row = np.zeros(METEOR_NUMBERS)
    row[[0, 1, 4, 5, 20, 21, 22]] = [words, reference, exact, exact, chunks, exact, exact]
    return row


def test_meteor_equals_its_formula():
    row = meteor_row(words=4, reference=5, exact=2, chunks=1)
    mean = 1 / (0.15 / (2 / 4) + 0.85 / (2 / 5))
    assert meteor_score(row) == pytest.approx(mean * (1 - 0.6 * (1 / 2) ** 0.2))
    assert meteor_score(np.zeros(METEOR_NUMBERS)) == 0


def test_a_text_that_matches_as_a_whole_has_no_fragments():
    items = [item("a b", "a b"), item("a b", "a x b")]
    whole, part = (
        meteor_row(words=2, reference=2, exact=2, chunks=1),
        meteor_row(words=2, reference=3, exact=2, chunks=2),
    )
    given = np.stack([whole, part])
    rows = sums_of(items, given)
    assert rows.shape == (2, 34)
    assert generation_metrics(rows[0], 1)["METEOR"] == 100
    assert rows[:, -3].tolist() == [0, 2]
    assert given[0, 20] == 1, "the caller's numbers stay"


def test_metrics_have_the_names_and_scale_of_the_papers():
    rows = sums_of([item("a b c d", "a b c d")])
    metrics = generation_metrics(rows.sum(axis=0), 1)
    assert tuple(metrics) == GENERATION_METRICS
    assert math.isnan(metrics.pop("METEOR"))
    assert metrics == pytest.approx(dict.fromkeys(metrics, 100.0))
