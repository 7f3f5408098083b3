"""The protocol of fine-tuning tasks: batches and losses of training steps, held-out metrics, analyses for reports.

In: tokenized examples. Out: one protocol, which `objective.py` trains and evaluates. A task stores what its teacher
says and writes the folder of its model; it knows nothing about optimizers, schedules or the checkpoints of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.heads import Model
from minilm.model.metadata import HeadName, ProblemType
from minilm.train.accumulate import Backward, Batch, Microbatches, PartLoss, StepLoss, accumulate
from minilm.train.distributed import ALONE, Ranks

POOLER = "encoder.pooler."  # its weights; a head that does not read the pooler leaves them out of the trained ones
NUM_EXAMPLES = 20  # incorrect examples shown in a report


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a report shows about a held-out set besides its metrics.

    Attributes:
        tables: title -> rows, such as a confusion matrix.
        curves: title -> name of a line -> its points (x, y).
        examples: incorrect examples, each as named texts.
        predictions: one row per held-out example, starting with `id` and `prediction`, or a run with its grades, as
            `minilm score` expects.
    """

    tables: Mapping[str, Sequence[Mapping[str, object]]]
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
    examples: Sequence[Mapping[str, str]]
    predictions: Sequence[Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The outputs of a model on a held-out set: functions that compute the metrics or the analysis from them."""

    numbers: Callable[[], Mapping[str, float]]
    analyse: Callable[[], Analysis]


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """The examples of a step.

    Attributes:
        rows: training examples of the global batch, int64 `[batch size]`.
        own: indices into `rows` of this process's examples.
        step: number of the step.
        seed: seed of the run; with `step` and the index of an example it determines everything random about it.
        ranks: this process among those that share the step.
    """

    rows: NDArray[np.int64]
    own: NDArray[np.int64]
    step: int
    seed: int
    ranks: Ranks = ALONE


class StepBatch(Batch, Protocol):
    """One process's share of a step, which computes its own loss."""

    def to(self, device: torch.device) -> StepBatch:
        """The same batch on `device`."""

    def accumulate(self, model: Model, backward: Backward) -> StepLoss:
        """Its loss, weighted by its share of the step; `backward` accumulates the gradient."""


class Microbatch(Batch, Protocol):
    """A part of a step whose loss does not depend on the other parts."""

    def to(self, device: torch.device) -> Microbatch:
        """The same part on `device`."""

    def loss(self, model: Model) -> Tensor:
        """Its loss, weighted by its share of the step."""


class IndependentParts(Microbatches[Microbatch]):
    """The standard batch: microbatches run one after another. A loss over the full batch needs a different class."""

    def to(self, device: torch.device) -> IndependentParts:
        """All parts on `device`."""
        return IndependentParts(parts=[part.to(device) for part in self.parts])

    def accumulate(self, model: Model, backward: Backward) -> StepLoss:
        """Forward and backward pass of each part."""
        return accumulate((PartLoss(value=part.loss(model)) for part in self.parts), backward)


class Task(Protocol):
    """A task to fine-tune on."""

    @property
    def head(self) -> HeadName | None:
        """The head on top of the encoder that a model folder holds; None: none."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes in id order; empty if the head has no classes."""

    @property
    def problem(self) -> ProblemType | None:
        """What the scores of a classification head are; None for another head."""

    @property
    def main_metric(self) -> str:
        """The metric that selects the best checkpoint; higher is better, except for losses."""

    @property
    def reshuffles(self) -> bool:
        """Whether every epoch is reshuffled."""

    @property
    def num_examples(self) -> int:
        """Number of training examples."""

    @property
    def dev_sets(self) -> Sequence[str]:
        """Names of the held-out sets; the first one selects the best checkpoint."""

    def contents(self) -> Mapping[str, str]:
        """What was read, in words: that of the training files as `training`, that of each held-out set by its name."""

    def require_fit(self, config: EncoderConfig) -> None:
        """Check the examples against the sizes of a model; raises UsageError if it is too small for them."""

    def prepare(self, model: Model) -> None:
        """Adapt the model to the task; called once, before training."""

    def parameters(self, model: Model) -> Mapping[str, nn.Parameter]:
        """The trainable weights by their names in the model."""

    def batch(self, chosen: StepRows, *, token_budget: int) -> StepBatch:
        """This process's share of a step, split by the token budget; a pure function of its arguments."""

    def score(self, model: Model, dev_set: str, *, token_budget: int, ranks: Ranks) -> Scored:
        """Evaluate a held-out set; the processes divide the work, and each gets the full result."""

    def identity(self) -> Mapping[str, str]:
        """What its loss depends on besides recipe, files and model, for comparing a run with an earlier one."""

    def store_teacher(self, ranks: Ranks) -> None:
        """Compute and store what its teacher says about the training examples; called before the first step."""

    def references(self, base: Model, *, token_budget: int, ranks: Ranks) -> dict[str, Mapping[str, float]]:
        """Held-out numbers to compare the run with, such as those of the model as it is (`base`)."""

    def write(self, model: Model, folder: Path) -> None:
        """Write the trained model, but for its tokenizer; `folder` must exist."""


class PlainTask:
    """What most tasks are: without a teacher, not comparable before training, with a head that a model folder holds."""

    head: HeadName | None
    labels: Sequence[str]
    problem: ProblemType | None

    def identity(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def store_teacher(self, ranks: Ranks) -> None:
        """Do nothing."""

    def references(self, base: Model, *, token_budget: int, ranks: Ranks) -> dict[str, Mapping[str, float]]:
        """None: the head is new."""
        return {}

    def write(self, model: Model, folder: Path) -> None:
        """Write the model with its head."""
        problem = self.problem or "single_label_classification"
        write_model(model, folder, head=self.head, labels=self.labels, problem=problem)


def numbers_of_sets(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Held-out metrics as one row: those of the first set under their own names, those of the others as `set.name`."""
    return {
        (f"{name}.{key}" if index else key): value
        for index, (name, numbers) in enumerate(found.items())
        for key, value in numbers.items()
    }
