"""Proves the numbers of the gate by hand, and that what is no number does not pass."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.export import gate
from minilm.export.answers import Answers
from minilm.export.gate import Measure, best_seconds, compare, overlap

NONE = np.empty(0)


def vectors(rows):
    return Answers(vectors=np.array(rows, dtype=np.float32), numbers=NONE)


def values(measures):
    return [round(one.value, 6) for one in measures]


def test_a_measure_at_its_limit_passes_and_nan_does_not():
    assert Measure(name="a", value=0.97, least=0.97).passes
    assert not Measure(name="a", value=0.9699, least=0.97).passes
    assert Measure(name="a", value=0.5, most=0.5).passes
    assert not Measure(name="a", value=0.51, most=0.5).passes
    assert Measure(name="a", value=float("inf")).passes
    assert not Measure(name="a", value=float("nan"), least=0.97).passes
    assert not Measure(name="a", value=float("nan"), most=0.5).passes
    assert not Measure(name="a", value=float("nan")).passes


def test_a_limit_is_shown_with_the_digits_that_tell_it_from_the_number():
    """74 of 75 labels pass: `0.98667, at least 0.9867` would look missed."""
    assert Measure(name="a", value=74 / 75, least=74 / 75).row() == ["a", "0.98667", "at least 0.98667", ""]


def test_cosines_of_vectors():
    """One of three vectors is at 60 degrees; lengths do not matter."""
    found = compare(vectors([[2, 0], [0, 3], [0.5, 0.75**0.5]]), vectors([[1, 0], [0, 1], [1, 0]]))
    assert values(found)[:2] == [round(2.5 / 3, 6), 0.5]
    assert [one.passes for one in found] == [False, False, True]


def test_a_vector_of_nothing_does_not_pass():
    with np.errstate(invalid="ignore"):
        found = compare(vectors([[0, 0], [0, 1]]), vectors([[1, 0], [0, 1]]))
    assert [one.passes for one in found[:2]] == [False, False]


def test_overlap_of_the_ten_nearest():
    """Of 12 vectors each has 11 others; exchanging the 1st and the 12th of a fan changes what the others leave out."""
    angles = np.arange(12) * 0.1
    fan = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert overlap(fan, fan) == 1.0
    moved = fan[[11, *range(1, 11), 0]]
    assert overlap(moved, fan) == pytest.approx((2 * 10 + 10 * 9) / 120, abs=0.02)


def test_labels_and_their_probabilities():
    numbers = np.array([0.9, 0.1, 0.2, 0.8])
    expected = Answers(labels=np.array([0, 1]), numbers=numbers)
    found = compare(Answers(labels=np.array([0, 0]), numbers=numbers + np.array([0, 0, 0.4, -0.4])), expected)
    assert values(found) == [0.5, 0.4]
    assert [one.passes for one in found] == [True, True], "one of a few labels may differ"
    many = Answers(labels=np.zeros(400, np.int64), numbers=numbers)
    for wrong, passes in ((4, True), (5, False)):
        labels = np.zeros(400, np.int64)
        labels[:wrong] = 1
        assert compare(Answers(labels=labels, numbers=numbers), many)[0].passes is passes


def test_numbers_by_their_correlation():
    expected = Answers(numbers=np.array([1.0, 2.0, 3.0, 4.0]))
    found = compare(Answers(numbers=np.array([1.1, 2.1, 3.1, 4.1])), expected)
    assert values(found) == [1.0, 1.0, 0.1]
    assert not compare(Answers(numbers=np.array([1.0, 3.0, 2.0, 4.0])), expected)[0].passes


def test_an_order_that_is_lost_among_outliers_does_not_pass():
    """Two scores far from the others make Pearson's correlation, whatever becomes of the rest."""
    scores = np.concatenate([np.linspace(0, 0.1, 50), [5.0, 6.0]])
    found = compare(Answers(numbers=np.concatenate([scores[49::-1], scores[50:]])), Answers(numbers=scores))
    assert [one.passes for one in found] == [True, False, True]
    assert found[0].value > 0.99


def test_int8_that_scores_all_texts_the_same_keeps_nothing():
    """A number, where the correlation is undefined."""
    found = compare(Answers(numbers=np.ones(4)), Answers(numbers=np.array([1.0, 2.0, 3.0, 4.0])))
    assert values(found) == [0.0, 0.0, 3.0]
    assert [one.passes for one in found] == [False, False, True]


def test_distance_grows_with_the_difference():
    near, far, same = vectors([[1, 0.1]]), vectors([[1, 0.4]]), vectors([[1, 0]])
    assert 0 == same.distance(same) < near.distance(same) < far.distance(same)
    few, many = Answers(numbers=np.array([0.1, 0.0])), Answers(numbers=np.array([0.1, 0.2]))
    assert few.distance(Answers(numbers=np.zeros(2))) == pytest.approx(0.05)
    assert many.distance(Answers(numbers=np.zeros(2))) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("int8", "rounds", "best"),
    [([3, 2, 3], 3, 2), ([9, 9, 9, 4, 1], 4, 4), ([9] * 20, 9, 9)],
)
def test_speed_is_the_best_of_rounds_in_turn(monkeypatch, int8, rounds, best):
    """More than three rounds only while int8 is slower, at most nine."""
    now, order = [0.0], []
    monkeypatch.setattr(gate.time, "perf_counter", lambda: now[0])

    def work(name, seconds):
        def run():
            order.append(name)
            now[0] += next(seconds)

        return run

    assert best_seconds(work("fp32", iter([7, 5, 6, *[6] * 20])), work("int8", iter(int8))) == (5, best)
    assert order == ["fp32", "int8"] * rounds
