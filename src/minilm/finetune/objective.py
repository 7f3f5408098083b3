"""Fine-tuning as an objective of the training loop: any task, all weights trained.

In: a model with the task's head, a task. Out: per step its share of the batches and their weighted loss;
outputs and numbers of held-out sequences.

B sequences, T packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minilm.corpus.order import rank_share, step_documents
from minilm.errors import DataError
from minilm.finetune.task import Analysis, Array, Sequences, Task, numbers_of_sets
from minilm.infer.batching import packed_batches
from minilm.model.heads import Model
from minilm.model.packing import Packed
from minilm.train.distributed import ALONE, Ranks, gathered_in_order
from minilm.train.loop import StepLoss


@dataclass(frozen=True, kw_only=True)
class TaskBatch:
    """One microbatch, the targets of its sequences `[B, ...]`, and the number of examples of the whole step."""

    packed: Packed
    targets: Tensor
    step_size: int


class FinetuneObjective:
    """Mean loss of a task over the global batch."""

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
        """Train `model` on `task` in batches of `batch_size` sequences over all processes.

        Raises:
            DataError: nothing to train on.
            UsageError: the batch cannot be shared evenly by the processes.
        """
        if not len(task.train):
            raise DataError("no example is left to train on; check task.train")
        rank_share(np.arange(batch_size), rank=ranks.rank, world_size=ranks.world_size)  # refuse before work begins
        self._model, self._task, self._ranks = model, task, ranks
        self._batch_size, self._tokens_per_batch, self._seed = batch_size, tokens_per_batch, seed
        self._device = next(model.parameters()).device
        self._targets = torch.from_numpy(task.targets)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self._model

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """All weights."""
        return dict(self._model.named_parameters())

    @property
    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """One group."""
        return [list(self._model.parameters())]

    def microbatches(self, step: int) -> list[TaskBatch]:
        """This process's share of the sequences of `step`, sorted by length, cut by the token budget."""
        rows = step_documents(
            num_documents=len(self._task.train), batch_size=self._batch_size, seed=self._seed, step=step
        )
        own = rank_share(rows, rank=self._ranks.rank, world_size=self._ranks.world_size)
        return [
            TaskBatch(packed=packed, targets=self._targets[chosen].to(self._device), step_size=len(rows))
            for chosen, packed in _batches(self._task.train, own, self._tokens_per_batch, self._device)
        ]

    def loss(self, batch: TaskBatch) -> StepLoss:
        """Sum of the losses of its sequences over the size of the step."""
        losses_B = self._task.losses(self._model(batch.packed).float(), batch.packed, batch.targets)
        return StepLoss(value=losses_B.sum() / batch.step_size, parts={})

    def evaluate(self) -> dict[str, float]:
        """Held-out numbers: those of the first set under their own names, of the others as `set.name`."""
        return numbers_of_sets(
            {name: self._task.metrics(name, self.predict(sequences)) for name, sequences in self._task.dev.items()}
        )

    def analyses(self) -> dict[str, Analysis]:
        """What the report shows of each held-out set."""
        return {name: self._task.analyse(name, self.predict(sequences)) for name, sequences in self._task.dev.items()}

    def predict(self, sequences: Sequences) -> list[Array]:
        """The task's outputs of each sequence, in order; the processes share the work."""
        return predict(
            self._model, sequences, self._task.outputs, tokens_per_batch=self._tokens_per_batch, ranks=self._ranks
        )


@torch.no_grad()
def predict(
    model: Model,
    sequences: Sequences,
    outputs: Callable[[Tensor, Packed], list[Array]],
    *,
    tokens_per_batch: int,
    ranks: Ranks = ALONE,
) -> list[Array]:
    """Run a model on sequences, the work shared by the processes.

    Args:
        model: with its head, on the device that computes.
        sequences: what it reads.
        outputs: what is wanted of each sequence, from the head's scores of a batch in float32.
        tokens_per_batch: token budget of one batch.
        ranks: this process among those that share the work.

    Returns:
        One output per sequence, in their order; every process gets all.
    """
    model.eval()
    rows = np.arange(len(sequences))[ranks.rank :: ranks.world_size]
    own: list[tuple[int, Array]] = []
    for chosen, packed in _batches(sequences, rows, tokens_per_batch, next(model.parameters()).device):
        own += zip(chosen.tolist(), outputs(model(packed).float(), packed), strict=True)
    return gathered_in_order(own, ranks)


def _batches(
    sequences: Sequences, rows: NDArray[np.int64], tokens_per_batch: int, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], Packed]]:
    token_ids = [sequences.token_ids[row] for row in rows]
    segment_ids = [sequences.segment_ids[row] for row in rows]
    for part, packed in packed_batches(token_ids, segment_ids, token_budget=tokens_per_batch):
        yield rows[part], packed.to(device)
