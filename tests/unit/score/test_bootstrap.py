"""Intervals: reproducible, around the score, as wide as theory says."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.score.bootstrap import interval, resampled_sums


def test_samples_are_as_large_as_the_whole_and_the_same_each_time():
    rows = np.stack([np.ones(50), np.arange(50.0)], axis=1)
    sums = resampled_sums(rows, resamples=20)
    assert sums.shape == (20, 2)
    assert set(sums[:, 0]) == {50.0}
    assert len(set(sums[:, 1])) > 10
    assert (sums == resampled_sums(rows, resamples=20)).all()
    assert not (sums == resampled_sums(rows, resamples=20, seed=1)).all()


def test_the_same_items_are_drawn_whatever_they_hold():
    rows = np.arange(30.0).reshape(10, 3)
    assert resampled_sums(rows, resamples=5)[:, :1].tolist() == resampled_sums(rows[:, :1], resamples=5).tolist()


def test_the_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=(400, 1))
    low, high = interval(resampled_sums(values)[:, 0] / 400)
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.3 * error)


def test_an_interval_holds_95_percent():
    assert interval([float(value) for value in range(1001)]) == (25.0, 975.0)
