"""Sums are taken in the order of the numbers, in float64; torch's own are not."""

from __future__ import annotations

import pytest
import torch

from minilm.distill import relation_kernel
from minilm.distill.relation_kernel import PairOfSides, triton_losses
from minilm.kernels.relation_cuda import Loss
from minilm.summation import ordered_sum
from minilm.train.accumulate import PartLoss, accumulate


@pytest.fixture
def numbers() -> torch.Tensor:
    """Whose sum depends on the order."""
    return torch.randn(1000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_the_order_is_that_of_the_numbers(numbers, count):
    expected = 0.0
    for number in numbers[:count].tolist():
        expected += number
    found = ordered_sum(numbers[:count])
    assert found.dtype == torch.float64
    assert found.shape == ()
    assert float(found) == expected
    assert float(ordered_sum(numbers[:count].float())) == pytest.approx(expected, rel=1e-3)


def test_so_are_losses_of_sequences_by_the_kernels_of_gpus(numbers, monkeypatch):
    """And those of microbatches."""
    assert float(numbers.sum()) != float(ordered_sum(numbers)), "else this shows nothing"
    monkeypatch.setattr(
        relation_kernel, "relation_loss_of_pair", lambda *sides, **rest: Loss(of_sequences=numbers, gradients=[])
    )
    pair = PairOfSides(teacher=[], student=[], lengths=(), weights=(), heads=1)
    assert torch.equal(triton_losses(pair, False)[0], ordered_sum(numbers))
    losses = [PartLoss(value=value, parts={"part": value}) for value in numbers]
    found = accumulate(losses, lambda loss: loss)
    assert torch.equal(found.value, ordered_sum(numbers))
    assert torch.equal(found.parts["part"], ordered_sum(numbers))
