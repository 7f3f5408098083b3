"""Fine-tuning as an objective of the training loop, independent of the task.

In: a model with the task's head, a task. Out: per step, this process's share of the batch and its loss; metrics and
analyses of the held-out sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from minilm.corpus.order import rank_share, step_documents
from minilm.errors import DataError
from minilm.finetune.task import Analysis, Scored, StepBatch, StepRows, Task, numbers_of_sets
from minilm.model.heads import Model
from minilm.train.accumulate import Backward, StepLoss
from minilm.train.distributed import ALONE, Ranks


def require_examples(task: Task, files: Sequence[str] = ()) -> None:
    """Raise DataError if a task has nothing to train on; it names the `files` that were read."""
    if not task.num_examples:
        where = f"{', '.join(files)}: " if files else ""
        raise DataError(f"{where}no training examples left; check task.train")


class FinetuneObjective:
    """The loss of a task over the global batch."""

    def __init__(
        self,
        model: Model,
        task: Task,
        *,
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """Train `model`, prepared by the task, with a global batch size of `batch_size` over all processes.

        Raises:
            DataError: no training examples.
            UsageError: the batch cannot be divided evenly among the processes.
        """
        require_examples(task)
        self._own_rows = rank_share(np.arange(batch_size), rank=ranks.rank, world_size=ranks.world_size)
        self._model, self._task, self._ranks = model, task, ranks
        self._batch_size, self._tokens_per_batch, self._seed = batch_size, tokens_per_batch, seed
        self._parameters = task.parameters(model)
        self._device = next(iter(self._parameters.values())).device

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self._model

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trainable weights."""
        return self._parameters

    @property
    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """A single group."""
        return [list(self._parameters.values())]

    def batch(self, step: int) -> StepBatch:
        """This process's share of the examples of `step`."""
        rows = step_documents(
            num_documents=self._task.num_examples,
            batch_size=self._batch_size,
            seed=self._seed,
            step=step,
            reshuffle=self._task.reshuffles,
        )
        chosen = StepRows(rows=rows, own=self._own_rows, step=step, seed=self._seed, ranks=self._ranks)
        return self._task.batch(chosen, token_budget=self._tokens_per_batch).to(self._device)

    def accumulate(self, batch: StepBatch, backward: Backward) -> StepLoss:
        """Compute loss and gradient of a batch."""
        return batch.accumulate(self._model, backward)

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics: those of the first set under their own names, those of the others as `set.name`."""
        return numbers_of_sets({name: scored.numbers() for name, scored in self._scored().items()})

    def analyses(self) -> dict[str, Analysis]:
        """The analysis of each held-out set for the report."""
        return {name: scored.analyse() for name, scored in self._scored().items()}

    def _scored(self) -> dict[str, Scored]:
        self._model.eval()
        return {
            name: self._task.score(self._model, name, token_budget=self._tokens_per_batch, ranks=self._ranks)
            for name in self._task.dev_sets
        }
