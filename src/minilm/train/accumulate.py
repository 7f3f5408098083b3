"""Gradient accumulation: split a step into parts that fit in memory and sum their losses and gradients.

In: the parts, the loss of each (already weighted by its share of the step), and the loop's backward function.
Out: the loss of the step, on the device: nothing here waits for a GPU; its gradient is in the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from minilm.summation import ordered_sum

Backward = Callable[[Tensor], Tensor]
"""Runs the backward pass of a loss, and returns the loss without its graph."""


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """This process's share of the loss of a step, and its components for logging: scalars, which are read together."""

    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


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
        the sums in float64, in the order of the parts.
    """
    values: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {}
    for loss in losses:
        values.append(backward(loss.value))
        for name, part in loss.parts.items():
            parts.setdefault(name, []).append(part.detach())
    sums = {name: ordered_sum(torch.stack(found)) for name, found in parts.items()}
    return StepLoss(value=ordered_sum(torch.stack(values)), parts=sums)
