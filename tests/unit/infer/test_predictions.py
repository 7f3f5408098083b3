"""Proves how scores become labels, and that vectors are scaled as torch scales them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minilm.infer.predictions import Classified, classification_of
from minilm.infer.vectors import normalized


@pytest.mark.parametrize("scores", [[0.5, -1.0, 2.0], [200.0, -300.0, 199.0], [-500.0, -500.0, -501.0]])
def test_probabilities_are_those_of_softmax(scores):
    row = np.array(scores, dtype=np.float32)
    found = classification_of(row, ["x", "y", "z"])
    expected = torch.from_numpy(row).softmax(-1).numpy()
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert found.label == "xyz"[int(expected.argmax())]
    assert found.score == max(found.probabilities)


def test_a_regression_model_gives_its_number():
    assert classification_of(np.array([3.25], dtype=np.float32), ()) == Classified(label="", score=3.25)


def test_vectors_get_length_1_and_zeros_stay_zeros():
    rows = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    rows[1] = 0
    rows[2] *= 1e-20
    found = normalized(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.nn.functional.normalize(torch.from_numpy(rows)).numpy(), atol=1e-6)
