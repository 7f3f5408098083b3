"""What a task of fine-tuning is: the batches of a step and their loss, held-out numbers, what a report shows.

In: examples that a task's own file has read and tokenized. Out: one protocol that `objective.py` trains and scores.
A task knows nothing of files, checkpoints or schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minilm.model.heads import Model
from minilm.model.metadata import HeadName
from minilm.train.accumulate import Backward, Batch, Microbatches, PartLoss, StepLoss, accumulate
from minilm.train.distributed import Ranks

NUM_EXAMPLES = 20  # wrong ones that a report shows


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a reader of a report wants to see of one held-out set, beside its numbers.

    Attributes:
        tables: title -> rows, such as a confusion matrix.
        curves: title -> name of a line -> its points (x, y).
        examples: wrong ones, each as named texts.
        predictions: one row per held-out example, `id` and `prediction` first, as `minilm score` reads them.
    """

    tables: Mapping[str, Sequence[Mapping[str, object]]]
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
    examples: Sequence[Mapping[str, str]]
    predictions: Sequence[Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A held-out set as a model does on it: its numbers, and how to make the analysis when it is wanted."""

    numbers: Mapping[str, float]
    analyse: Callable[[], Analysis]


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """Which examples a step reads.

    Attributes:
        rows: training examples of the global batch, int64 `[batch size]`.
        own: places among `rows` that this process reads.
        step: number of the step.
        seed: of the run; with `step` and a place it decides everything random about an example.
    """

    rows: NDArray[np.int64]
    own: NDArray[np.int64]
    step: int
    seed: int


class StepBatch(Batch, Protocol):
    """What one process reads of a step; it knows its loss."""

    def to(self, device: torch.device) -> StepBatch:
        """The same batch on `device`."""

    def accumulate(self, model: Model, backward: Backward) -> StepLoss:
        """Its loss, weighted by its share of the step; the gradient is added up by calls of `backward`."""


class Microbatch(Batch, Protocol):
    """A part of a step whose loss does not depend on the other parts."""

    def to(self, device: torch.device) -> Microbatch:
        """The same part on `device`."""

    def loss(self, model: Model) -> Tensor:
        """Its loss, weighted by its share of the step."""


class IndependentParts(Microbatches[Microbatch]):
    """The usual batch: parts that are run one after another. A loss over a whole batch needs another one."""

    def to(self, device: torch.device) -> IndependentParts:
        """All parts on `device`."""
        return IndependentParts(parts=[part.to(device) for part in self.parts])

    def accumulate(self, model: Model, backward: Backward) -> StepLoss:
        """Forward and backward pass of each part."""
        return accumulate((PartLoss(value=part.loss(model)) for part in self.parts), backward)


class Task(Protocol):
    """What fine-tuning learns."""

    @property
    def head(self) -> HeadName:
        """The head that is put on the encoder."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes in id order; none where the head has no classes."""

    @property
    def main_metric(self) -> str:
        """The number that chooses the best checkpoint; higher is better, but for a loss."""

    @property
    def reshuffles(self) -> bool:
        """Whether each epoch has an order of its own."""

    @property
    def num_examples(self) -> int:
        """Training examples."""

    @property
    def dev_sets(self) -> Sequence[str]:
        """Names of the held-out sets; the first one chooses the best checkpoint."""

    def prepare(self, model: Model) -> None:
        """Give the model what the task needs of it, once, before training.

        Raises:
            UsageError: the model is too small for the task's examples.
        """

    def parameters(self, model: Model) -> Mapping[str, nn.Parameter]:
        """The weights that are trained, by their names in the model."""

    def batch(self, chosen: StepRows, *, token_budget: int) -> StepBatch:
        """What this process reads of a step, cut by the token budget; a pure function of its arguments."""

    def score(self, model: Model, dev_set: str, *, token_budget: int, ranks: Ranks) -> Scored:
        """Run a held-out set, the work shared by the processes; every process gets all of it."""


def numbers_of_sets(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Held-out numbers by set as one row: those of the first set under their own names, of the others `set.name`."""
    return {
        (f"{name}.{key}" if place else key): value
        for place, (name, numbers) in enumerate(found.items())
        for key, value in numbers.items()
    }
