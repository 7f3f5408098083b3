"""GLUE metrics equal those of scikit-learn and scipy, for any labels and predictions, to 1e-12."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from minilm.score.glue import compute_metrics

many = settings(max_examples=60, deadline=None)  # scikit-learn takes some milliseconds for each
floats = st.floats(-1e200, 1e200, allow_subnormal=False)
ties = st.integers(0, 4).map(float)
scores = st.floats(-1, 5, width=32)


def same(found: dict[str, float], oracle: dict[str, float]) -> None:
    assert found == pytest.approx({name: 100 * value for name, value in oracle.items()}, abs=1e-10, nan_ok=True)


def pairs(*values: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, float]]]:
    """Rows of a true and a predicted value, both from one of `values`."""
    return st.one_of(*(st.lists(st.tuples(one, one), min_size=1, max_size=40) for one in values))


@given(rows=pairs(st.integers(0, 1)))
@many
def test_metrics_of_two_labels_equal_scikit_learn(rows):
    labels, predictions = map(list, zip(*rows, strict=True))
    with warnings.catch_warnings():  # scikit-learn warns about labels that are all equal
        warnings.simplefilter("ignore")
        oracle = {
            "accuracy": accuracy_score(labels, predictions),
            "f1": f1_score(labels, predictions, zero_division=0.0),
            "matthews_correlation": matthews_corrcoef(labels, predictions),
        }
    assert compute_metrics(tuple(oracle), labels, predictions) == {name: 100 * one for name, one in oracle.items()}


@given(rows=pairs(st.integers(0, 4)))
@many
def test_metrics_of_any_number_of_labels_equal_scikit_learn(rows):
    labels, predictions = map(list, zip(*rows, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = {
            "accuracy": accuracy_score(labels, predictions),
            "matthews_correlation": matthews_corrcoef(labels, predictions),
        }
    same(compute_metrics(tuple(oracle), labels, predictions), oracle)


@given(rows=pairs(floats, ties, scores))
@many
def test_correlations_equal_scipy(rows):
    """Ties, constant sides (NaN in scipy too), values whose squares overflow."""
    labels, predictions = map(list, zip(*rows, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns about constant and nearly constant values
        enough = len(rows) > 1  # scipy's pearsonr rejects one pair
        oracle = {
            "pearson": float(pearsonr(labels, predictions).statistic) if enough else math.nan,
            "spearmanr": float(spearmanr(labels, predictions).statistic),
        }
    same(compute_metrics(tuple(oracle), labels, predictions), oracle)
