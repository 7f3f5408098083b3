"""Proves that GLUE metrics equal those of scikit-learn and scipy as stored, degenerate cases included.

Counts are compared exactly; correlations up to the rounding of the sums inside, which depends on numpy's build.
"""

from __future__ import annotations

import json

import pytest

from minilm.score.glue import compute_metrics

NAMES = {
    "mcc": "matthews_correlation",
    "f1_positive_class_1": "f1",
    "acc": "accuracy",
    "pearson": "pearson",
    "spearman": "spearmanr",
}


def test_metrics_equal_the_stored_ones(golden_dir):
    cases = [json.loads(line) for line in (golden_dir / "glue" / "metrics.jsonl").read_text().split("\n") if line]
    assert len(cases) == 13
    for case in cases:
        stored = {NAMES[key]: 100 * case[key] for key in NAMES if case.get(key) is not None}
        found = compute_metrics(tuple(stored), case["labels"], case["preds"])
        exact = case["type"] == "classification"
        assert found == (stored if exact else pytest.approx(stored, rel=1e-14)), case["case"]
