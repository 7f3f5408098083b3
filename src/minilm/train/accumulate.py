"""Gradient accumulation: split a step into parts that fit in memory and sum their losses and gradients.

In: the parts, the loss of each (already weighted by its share of the step), and the loop's backward function.
Out: the loss of the step; its gradient is in the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from torch import Tensor

Backward = Callable[[Tensor], float]
"""Runs the backward pass of a loss and returns its value; skips the backward pass if the loss is not finite."""


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """This process's share of the loss of a step, and its components for logging."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Batch(Protocol):
    """The input of a step, or a part of it."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens to compute."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors by name, for saving a batch whose loss is not finite."""


P = TypeVar("P", bound=Batch)


@dataclass(frozen=True, kw_only=True)
class Microbatches(Generic[P]):
    """The parts of a step, shortest sequences first; also a `Batch`."""

    parts: Sequence[P]

    @property
    def num_tokens(self) -> int:
        """Tokens of all parts."""
        return sum(part.num_tokens for part in self.parts)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of all parts as `index.name`."""
        return {
            f"{number}.{name}": tensor
            for number, part in enumerate(self.parts)
            for name, tensor in part.tensors().items()
        }


@dataclass(frozen=True, kw_only=True)
class PartLoss:
    """Loss of one part, and its components."""

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


def accumulate(losses: Iterable[PartLoss], backward: Backward) -> StepLoss:
    """Run the backward pass of each part and sum the losses.

    Args:
        losses: one per part, consumed lazily, so that only one graph is alive at a time.
        backward: see `Backward`.

    Returns:
        the sums. If the loss of a part is not finite, only that loss is returned and later parts are not computed.
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
