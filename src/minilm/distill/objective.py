"""Relation distillation as an objective of the training loop: one teacher pass, any number of students.

In: a teacher, students, token shards. Out: the batches of each step and their weighted loss; the held-out loss.

B sequences, T packed tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from minilm.corpus.order import rank_share, step_documents
from minilm.corpus.shards import Shards
from minilm.distill.relation_loss import Normalization, Pair, relation_loss
from minilm.errors import DataError
from minilm.model.encoder import Encoder, Relations
from minilm.model.packing import Packed, pack
from minilm.model.token_budget import microbatches
from minilm.randomness import derived_seed
from minilm.train.accumulate import Backward, Microbatches, PartLoss, StepLoss, accumulate
from minilm.train.distributed import ALONE, Ranks, sum_over_ranks


class RelationTeacher(Protocol):
    """What the loss needs from a teacher; `distill/teacher.py` runs Hugging Face encoders packed."""

    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the distilled layer, `[T, H, D]` each, without gradient."""


@dataclass(frozen=True, kw_only=True)
class RelationBatch:
    """A microbatch, the sequences or tokens that the step's mean is over, and its position, which seeds dropout."""

    packed: Packed
    total: int
    position: tuple[int, int]  # step, index within the step

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.packed.num_tokens

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of its documents."""
        return self.packed.tensors()


@dataclass(frozen=True, kw_only=True)
class RelationSettings:
    """Relations to match, averaging of rows, and how documents are read."""

    pairs: tuple[Pair, ...]
    num_relation_heads: int
    normalization: Normalization
    batch_size: int
    tokens_per_batch: int
    num_heldout: int
    seed: int
    device: str = "cpu"


def num_trained_documents(shards: Shards, num_heldout: int) -> int:
    """Number of documents that are not held out; raises DataError if there is none."""
    if len(shards) <= num_heldout:
        raise DataError(
            f"the corpus has {len(shards)} documents and data.heldout_documents is {num_heldout}; "
            f"expected at least one more document to train on"
        )
    return len(shards) - num_heldout


class DistillObjective:
    """Sum of the relation losses of all students; their weights are disjoint, so each trains as if alone."""

    def __init__(
        self,
        teacher: RelationTeacher,
        students: Mapping[str, Encoder],
        shards: Shards,
        settings: RelationSettings,
        ranks: Ranks = ALONE,
    ) -> None:
        """Hold out the last `num_heldout` documents of the corpus; the processes share each step's documents.

        Raises:
            DataError: no document is left to train on.
            UsageError: the processes cannot share the batch evenly.
        """
        rank_share(np.arange(settings.batch_size), rank=ranks.rank, world_size=ranks.world_size)
        self._ranks = ranks
        self._teacher, self._shards, self._settings = teacher, shards, settings
        self._students = students
        self._module = nn.ModuleList(students.values())
        self._num_documents = num_trained_documents(shards, settings.num_heldout)

    @property
    def module(self) -> nn.Module:
        """All students, in the recipe's order."""
        return self._module

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The parameters that the last layer's query, key and value depend on; the rest of that layer never runs."""
        trained = {parameter for group in self.clip_groups for parameter in group}
        return {name: parameter for name, parameter in self._module.named_parameters() if parameter in trained}

    @property
    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """One group per student."""
        return [student.relation_parameters() for student in self._students.values()]

    def batch(self, step: int) -> Microbatches[RelationBatch]:
        """This process's share of the documents of `step`, sorted by length and split by the token budget."""
        documents = step_documents(
            num_documents=self._num_documents,
            batch_size=self._settings.batch_size,
            seed=self._settings.seed,
            step=step,
        )
        own = rank_share(documents, rank=self._ranks.rank, world_size=self._ranks.world_size)
        return Microbatches(parts=list(self._batches(own, of=documents, step=step)))

    def accumulate(self, batch: Microbatches[RelationBatch], backward: Backward) -> StepLoss:
        """The loss of a step, microbatch by microbatch."""
        return accumulate(map(self.loss, batch.parts), backward)

    def loss(self, batch: RelationBatch) -> PartLoss:
        """Sum over students and relation pairs, the batch's share of the step's, with one teacher pass for all."""
        teacher = self._teacher.relations(batch.packed)
        parts: dict[str, Tensor] = {}
        own = [self._ranks.rank] if self._ranks.rank else []
        for name, student in self._students.items():
            torch.manual_seed(derived_seed(self._settings.seed, "dropout", name, *batch.position, *own))
            losses = self._losses(teacher, student, batch)
            for (a, b), value in zip(self._settings.pairs, losses, strict=True):
                parts[f"{name}.{a}-{b}"] = value
        return PartLoss(value=torch.stack(list(parts.values())).sum(), parts=parts)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out loss of each student, `{name}.heldout_loss`, without dropout and with float32 students.

        Empty if no document is held out.
        """
        documents = np.arange(self._num_documents, len(self._shards))
        totals = dict.fromkeys(self._students, 0.0)
        self._module.eval()
        own = documents[self._ranks.rank :: self._ranks.world_size]
        for batch in self._batches(own, of=documents, step=0):
            teacher = self._teacher.relations(batch.packed)
            for name, student in self._students.items():
                totals[name] += float(self._losses(teacher, student, batch).sum())
        device = torch.device(self._settings.device)
        totals = dict(zip(totals, sum_over_ranks(list(totals.values()), self._ranks, device), strict=True))
        return {f"{name}.heldout_loss": total for name, total in totals.items()} if len(documents) else {}

    def _losses(self, teacher: Relations, student: Encoder, batch: RelationBatch) -> Tensor:
        """The batch's share of the loss of one student, one value per pair."""
        return relation_loss(
            teacher,
            student.relations(batch.packed),
            batch.packed,
            pairs=self._settings.pairs,
            num_relation_heads=self._settings.num_relation_heads,
            normalization=self._settings.normalization,
            total=batch.total,
        )

    def _batches(self, documents: np.ndarray, *, of: np.ndarray, step: int) -> Iterator[RelationBatch]:
        """Microbatches of `documents`, shares of the mean over all documents `of`."""
        lengths = self._shards.lengths[documents]
        total = len(of) if self._settings.normalization == "sequence" else int(self._shards.lengths[of].sum())
        for number, part in enumerate(microbatches(lengths, token_budget=self._settings.tokens_per_batch)):
            sequences = [self._shards[int(document)] for document in documents[part]]
            packed = pack(sequences).to(self._settings.device)
            yield RelationBatch(packed=packed, total=total, position=(step, number))
