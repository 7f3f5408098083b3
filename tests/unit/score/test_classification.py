"""Precision, recall, F1 and confusion matrices are those of scikit-learn, also where they are shares of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.score.classification import (
    AVERAGES,
    NO_PREDICTION,
    RATES,
    average_metrics,
    average_rows,
    confusion_matrix,
    confusion_rows,
    counts_of_labels,
    counts_of_sets,
    label_rows,
)

metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'minilm[dev]'")


def assert_same(counts, gold, found, labels):
    """Every number is that of scikit-learn, where a share of nothing is 0."""
    settings = {"labels": labels, "zero_division": 0}
    *expected, support = metrics.precision_recall_fscore_support(gold, found, **settings)
    assert counts.rates() == pytest.approx(100 * np.transpose(expected))
    assert counts.references.tolist() == support.tolist()
    numbers = average_metrics(counts)
    for average in AVERAGES:
        *expected, _ = metrics.precision_recall_fscore_support(gold, found, average=average, **settings)
        assert [numbers[f"{average}_{rate}"] for rate in RATES] == pytest.approx(100 * np.array(expected))


SIDES = {
    "all labels": ([0, 1, 2, 2, 1, 0, 0], [0, 2, 2, 1, 1, 0, 1]),
    "a label is never predicted": ([0, 1, 2, 2], [0, 1, 0, 1]),
    "a label is in no reference": ([0, 1, 1, 0], [0, 2, 1, 2]),
    "a label is on neither side": ([0, 1, 1, 0], [0, 0, 1, 1]),
    "one label only": ([1, 1, 1], [1, 1, 1]),
    "nothing is right": ([0, 0, 1], [1, 2, 0]),
    "predictions are missing": ([0, 1, 2, 2], [0, NO_PREDICTION, NO_PREDICTION, 2]),
    "all predictions are missing": ([0, 1], [NO_PREDICTION, NO_PREDICTION]),
}


@pytest.mark.parametrize(("gold", "found"), SIDES.values(), ids=SIDES)
def test_numbers_of_single_labels_are_those_of_scikit_learn(gold, found):
    assert_same(counts_of_labels(gold, found, 3), gold, found, [0, 1, 2])


@pytest.mark.parametrize(("gold", "found"), SIDES.values(), ids=SIDES)
def test_the_confusion_matrix_is_that_of_scikit_learn(gold, found):
    expected = metrics.confusion_matrix(gold, found, labels=[0, 1, 2, NO_PREDICTION])
    assert confusion_matrix(gold, found, 3).tolist() == expected[:3].tolist()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_numbers_of_label_sets_are_those_of_scikit_learn(share):
    draw = np.random.default_rng(1)
    gold, found = draw.random((40, 5)) < share, draw.random((40, 5)) < 0.4
    gold[:, 3] = found[:, 3] = False  # a label that neither side has
    found[:, 4] = False
    assert_same(counts_of_sets(gold, found), gold, found, list(range(5)))


def test_random_labels_give_the_numbers_of_scikit_learn():
    draw = np.random.default_rng(2)
    gold, found = draw.integers(0, 7, 300), draw.integers(-1, 7, 300)
    assert_same(counts_of_labels(gold, found, 7), gold, found, list(range(7)))


def test_the_tables_hold_labels_averages_and_missing_predictions():
    gold, found = [0, 1, 1], [0, 1, NO_PREDICTION]
    counts = counts_of_labels(gold, found, 2)
    rows = label_rows(("a", "b"), counts)
    assert [row["label"] for row in average_rows(counts)] == [f"{name} average" for name in AVERAGES]
    assert rows[1] == {
        "label": "b",
        "precision": 100.0,
        "recall": 50.0,
        "f1": pytest.approx(200 / 3),
        "references": 2,
        "predictions": 1,
    }
    assert confusion_rows(("a", "b"), confusion_matrix(gold, found, 2)) == [
        {"reference \\ prediction": "a", "a": 1, "b": 0, "(no prediction)": 0},
        {"reference \\ prediction": "b", "a": 0, "b": 1, "(no prediction)": 1},
    ]
    assert "(no prediction)" not in confusion_rows(("a", "b"), confusion_matrix([0], [0], 2))[0]
