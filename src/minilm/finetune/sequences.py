"""Base classes of tasks on sequences, and of those whose examples are single sequences with a target.

In: sequences of token ids with their targets. Out: the `Task` protocol, except for losses, outputs and metrics, which
subclasses define.

B sequences, T packed tokens, C labels, N tokens of one sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minilm.errors import UsageError
from minilm.finetune.task import Analysis, IndependentParts, PlainTask, Scored, StepRows
from minilm.model.compact import hold_rows
from minilm.model.config import EncoderConfig
from minilm.model.heads import Model
from minilm.model.metadata import ProblemType
from minilm.model.packing import Packed, on_device, pack
from minilm.model.token_budget import microbatches
from minilm.train.distributed import ALONE, Ranks, gathered_in_order

Array = NDArray[np.float32]
Losses = Callable[[Tensor, Packed, Tensor], Tensor]
"""Maps (head scores in float32, the batch, its targets) to the loss of each sequence, `[B]`."""


class InBatches(Protocol):
    """Sequences that are numbered."""

    def batches(self, rows: NDArray[np.int64], *, token_budget: int) -> Iterator[tuple[NDArray[np.int64], Packed]]:
        """The sequences of `rows` in packed batches of similar lengths, each with its rows."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Token ids and segment ids of n sequences, each `[N]` int32."""

    token_ids: Sequence[NDArray[np.int32]]
    segment_ids: Sequence[NDArray[np.int32]]

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.token_ids)

    def batches(self, rows: NDArray[np.int64], *, token_budget: int) -> Iterator[tuple[NDArray[np.int64], Packed]]:
        """The sequences of `rows` in packed batches of similar lengths, each with its rows."""
        for part in microbatches(np.array([len(self.token_ids[row]) for row in rows]), token_budget=token_budget):
            yield rows[part], self.packed(rows[part])

    def packed(self, rows: NDArray[np.int64]) -> Packed:
        """The sequences of `rows` in one batch."""
        return pack([self.token_ids[row] for row in rows], segments=[self.segment_ids[row] for row in rows])


@dataclass(frozen=True, kw_only=True)
class TargetBatch:
    """Packed sequences, their targets `[B, ...]` or `[T]`, and the number of targets in the full step."""

    packed: Packed
    targets: Tensor
    losses: Losses
    step_size: int

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.packed.num_tokens

    def tensors(self) -> dict[str, Tensor]:
        """The sequences."""
        return self.packed.tensors()

    def to(self, device: torch.device) -> TargetBatch:
        """The same batch on `device`."""
        return replace(self, packed=self.packed.to(device), targets=on_device(self.targets, device))

    def loss(self, model: Model) -> Tensor:
        """Sum of the losses of the sequences, divided by the number of targets in the step."""
        losses_B = self.losses(model(self.packed).float(), self.packed, self.targets)
        return losses_B.sum() / self.step_size


class PackedTask(PlainTask, ABC):
    """A task on sequences, of which a batch holds any; the head's scores are `[B, C]`, `[T, 2]` or `[T, C]`."""

    reshuffles = True
    unit = "rows"  # what one sequence is
    problem: ProblemType | None = None

    def __init__(self, train: Sequences, dev: Mapping[str, Sequences], *, max_tokens: int) -> None:
        """Store the tokenized data; `max_tokens` is the configured max sequence length, for messages."""
        self.train, self.dev = train, dev
        self._max_tokens = max_tokens

    @abstractmethod
    def outputs(self, scores: Tensor, packed: Packed) -> list[Array]:
        """Per sequence, the scores needed for evaluation: logits `[C]`, or scores of its tokens `[N, C]`."""

    @abstractmethod
    def metrics(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """Metrics of a held-out set, given the outputs of all its sequences in order."""

    @abstractmethod
    def analyse(self, dev_set: str, outputs: Sequence[Array]) -> Analysis:
        """The analysis of a held-out set for the report."""

    @property
    def _parts(self) -> Sequence[Sequences]:
        """All sets."""
        return (self.train, *self.dev.values())

    @property
    def dev_sets(self) -> Sequence[str]:
        """Names of the held-out sets."""
        return list(self.dev)

    def contents(self) -> dict[str, str]:
        """The number of sequences of each set."""
        return {name: f"{len(part):,} {self.unit}" for name, part in {"training": self.train, **self.dev}.items()}

    def require_fit(self, config: EncoderConfig) -> None:
        """Check that all sequences fit the position table; raises as `require_positions`."""
        lengths = [len(ids) for part in self._parts for ids in part.token_ids]
        require_positions(max(lengths, default=0), config, max_tokens=self._max_tokens)

    def prepare(self, model: Model) -> None:
        """Reduce the word table to the rows that the sequences use."""
        used = np.unique(np.concatenate([ids for part in self._parts for ids in part.token_ids]))
        hold_rows(model.encoder.embeddings, used.astype(np.int64))

    def parameters(self, model: Model) -> dict[str, nn.Parameter]:
        """All weights."""
        return dict(model.named_parameters())

    def score(self, model: Model, dev_set: str, *, token_budget: int, ranks: Ranks = ALONE) -> Scored:
        """Metrics of a held-out set."""
        outputs = self.predict(model, self.dev[dev_set], token_budget=token_budget, ranks=ranks)
        return Scored(numbers=partial(self.metrics, dev_set, outputs), analyse=partial(self.analyse, dev_set, outputs))

    def predict(self, model: Model, sequences: Sequences, *, token_budget: int, ranks: Ranks = ALONE) -> list[Array]:
        """Outputs of a model in evaluation mode for `sequences`, in order; the processes divide the work."""

        def outputs(packed: Packed) -> list[Array]:
            return self.outputs(model(packed).float(), packed)

        rows, device = np.arange(len(sequences)), next(model.parameters()).device
        return computed(sequences, rows, outputs, device=device, token_budget=token_budget, ranks=ranks)


def require_positions(longest: int, config: EncoderConfig, *, max_tokens: int) -> None:
    """Check that the longest sequence fits the position table; `max_tokens` is the configured limit, for the message.

    Raises:
        UsageError: the model has too few positions.
    """
    if longest > config.max_tokens:
        raise UsageError(
            f"task.max_tokens is {max_tokens}, but the model has positions for {config.max_tokens} tokens; "
            f"set it to at most {config.max_tokens}"
        )


@torch.no_grad()
def computed(
    sequences: InBatches,
    rows: NDArray[np.int64],
    outputs: Callable[[Packed], Iterable[Array]],
    *,
    device: torch.device,
    token_budget: int,
    ranks: Ranks,
) -> list[Array]:
    """What a function gives for each of `rows`, in ascending order; the processes divide the work.

    Args:
        sequences: where the rows are.
        rows: numbers of sequences.
        outputs: one array for each sequence of a batch.
        device: of the batches.
        token_budget: max tokens of one.
        ranks: this process among those that divide the work.
    """
    own: list[tuple[int, Array]] = []
    for chosen, packed in sequences.batches(rows[ranks.rank :: ranks.world_size], token_budget=token_budget):
        own += zip(chosen.tolist(), outputs(packed.to(device)), strict=True)
    return gathered_in_order(own, ranks)


class SequenceTask(PackedTask):
    """A task on single sequences; the head's scores are `[B, C]` (classification), `[T, 2]` (span) or `[T, C]`."""

    def __init__(
        self,
        train: Sequences,
        targets: NDArray[np.generic] | Sequence[NDArray[np.generic]],
        dev: Mapping[str, Sequences],
        *,
        max_tokens: int,
    ) -> None:
        """Store the tokenized data.

        Args:
            train: training sequences.
            targets: one row per training sequence, `[n, ...]`; or where tokens have targets, `[N]` for each sequence.
            dev: held-out sets by name.
            max_tokens: the configured max sequence length, for messages.
        """
        super().__init__(train, dev, max_tokens=max_tokens)
        self.targets = targets

    @abstractmethod
    def losses(self, scores: Tensor, packed: Packed, targets: Tensor) -> Tensor:
        """Loss of each sequence, `[B]`, given the head's scores in float32; a step's is their sum per target."""

    @property
    def num_examples(self) -> int:
        """Number of training sequences."""
        return len(self.train)

    def batch(self, chosen: StepRows, *, token_budget: int) -> IndependentParts:
        """This process's sequences of a step, with their targets."""
        step_size = self.num_targets(chosen.rows)
        parts = [
            TargetBatch(packed=packed, targets=self.targets_of(rows), losses=self.losses, step_size=step_size)
            for rows, packed in self.train.batches(chosen.rows[chosen.own], token_budget=token_budget)
        ]
        return IndependentParts(parts=parts)

    def targets_of(self, rows: NDArray[np.int64]) -> Tensor:
        """The targets of training sequences, `[B, ...]`, or `[T]` where tokens have targets."""
        if isinstance(self.targets, np.ndarray):
            return torch.from_numpy(self.targets[rows])
        return torch.from_numpy(np.concatenate([self.targets[row] for row in rows]))

    def num_targets(self, rows: NDArray[np.int64]) -> int:
        """How many targets the loss of these training sequences is the mean of: one each."""
        return len(rows)
