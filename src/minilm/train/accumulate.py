"""A step read in parts that fit into memory: their losses and gradients add up to those of the step.

In: parts, the loss of each (already weighted by its share of the step), and the backward pass that the loop hands in.
Out: the loss of the step; its gradient is in the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from torch import Tensor

Backward = Callable[[Tensor], float]
"""Runs the backward pass of a loss and returns its value; a loss that is not finite is returned without one."""


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """Loss of a step as far as this process computes it, and the parts of it worth logging."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Batch(Protocol):
    """What a step reads, or a part of it."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What it holds by name, for saving a batch whose loss is not finite."""


P = TypeVar("P", bound=Batch)


@dataclass(frozen=True, kw_only=True)
class Microbatches(Generic[P]):
    """The parts of a step, shortest sequences first; itself a batch."""

    parts: Sequence[P]

    @property
    def num_tokens(self) -> int:
        """Tokens of all parts."""
        return sum(part.num_tokens for part in self.parts)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of all parts as `number.name`."""
        return {
            f"{number}.{name}": tensor
            for number, part in enumerate(self.parts)
            for name, tensor in part.tensors().items()
        }


@dataclass(frozen=True, kw_only=True)
class PartLoss:
    """Loss of one part, and what it is made of."""

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


def accumulate(losses: Iterable[PartLoss], backward: Backward) -> StepLoss:
    """Run the backward pass of each part and add the losses up.

    Args:
        losses: one per part; each is asked for when the part before it is done, so that one graph is alive at a time.
        backward: see `Backward`.

    Returns:
        the sums; of a part whose loss is not finite that loss alone, and what comes after it is not computed.
    """
    total, parts = 0.0, dict[str, float]()
    for loss in losses:
        value = backward(loss.value)
        if not math.isfinite(value):
            return StepLoss(value=value)
        total += value
        for name, part in loss.parts.items():
            parts[name] = parts.get(name, 0.0) + float(part.detach())
    return StepLoss(value=total, parts=parts)
