"""What students learn from a batch: one protocol, and the relations of MiniLM behind it.

In: a batch, the teacher. Out: the losses of each student, already weighted by the batch's share of the step. Other
criteria are in `hidden_states.py` and `masked_language.py`.

B sequences, T packed tokens, M masked tokens, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from minilm.distill.agreement import agreement_numbers, relation_agreement
from minilm.distill.relation_loss import Normalization, Pair, relation_loss
from minilm.distill.shapes import LayerPairs
from minilm.model.encoder import Encoder, Relations
from minilm.model.heads import MaskedLanguageHead
from minilm.model.packing import Packed

RowCounts = npt.NDArray[np.integer]
LossesOf = Callable[[str], Mapping[str, Tensor]]
"""Name of a student -> its losses, by the names of their parts."""


@dataclass(frozen=True, kw_only=True)
class MaskedRows:
    """The masked tokens of a batch: their rows `[M]`, what was there `[M]`, and how many are in each sequence."""

    rows: Tensor
    labels: Tensor
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DistillBatch:
    """A microbatch, the sequences or rows that the step's mean is over, and its position, which seeds dropout.

    `masked` are the tokens of it that were chosen, where text is masked.
    """

    packed: Packed
    documents: np.ndarray  # their numbers in the corpus, [B]
    total: int
    position: tuple[int, int]  # step, index within the step
    masked: MaskedRows | None = None

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.packed.num_tokens

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of its documents."""
        masked = {} if self.masked is None else {"masked_rows": self.masked.rows, "labels": self.masked.labels}
        return {**self.packed.tensors(), **masked}


class Criterion(Protocol):
    """What the students learn. Their weights are disjoint."""

    @property
    def students(self) -> Mapping[str, Encoder]:
        """By name, in the recipe's order."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What is trained with them and is in checkpoints too."""

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The weights that the loss of a student depends on."""

    def head(self, name: str) -> MaskedLanguageHead | None:
        """The head that a student is saved with, if any."""

    def counted_rows(self, lengths: RowCounts) -> RowCounts:
        """How many rows of documents of these lengths the mean is over."""

    def prepare(self, batch: DistillBatch) -> LossesOf:
        """Run the teacher, once for all students."""

    def agreement(self, batches: Iterable[DistillBatch]) -> dict[str, float]:
        """How far relations agree with the teacher's, by name, summed over documents; nothing without relations."""


class RelationTeacher(Protocol):
    """What relation losses need from a teacher: a `Teacher` computes it, a `CachedTeacher` reads it."""

    def document_relations(self, packed: Packed, documents: np.ndarray) -> Relations:
        """Query, key and value of the distilled layer, `[T, H, D]` each, without gradient.

        Args:
            packed: the token ids.
            documents: the numbers of its sequences in the corpus.
        """

    def relations_of(self, packed: Packed) -> Mapping[int, Relations]:
        """The same of each of its layers, counted from 1."""


@dataclass(frozen=True, kw_only=True)
class RelationCriterion:
    """The relations of the teacher's layers.

    Attributes:
        teacher: the teacher.
        students: by name.
        layers: of each student, which of its layers is compared with which of the teacher's.
        pairs: the projections to relate, and the weight of each pair in the loss.
        num_relation_heads: R.
        normalization: how rows are averaged.
    """

    teacher: RelationTeacher
    students: Mapping[str, Encoder]
    layers: Mapping[str, LayerPairs]
    pairs: Mapping[Pair, float]
    num_relation_heads: int
    normalization: Normalization = "sequence"

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """None besides the students."""
        return {}

    def parameters(self, name: str) -> list[nn.Parameter]:
        """All but what follows the queries, keys and values of the last layer."""
        return self.students[name].relation_parameters()

    def head(self, name: str) -> None:
        """Students have none."""

    def counted_rows(self, lengths: RowCounts) -> RowCounts:
        """All."""
        return lengths

    def prepare(self, batch: DistillBatch) -> LossesOf:
        """Compute the teacher's relations."""
        return partial(self._losses, batch, self._of_teacher(batch))

    def agreement(self, batches: Iterable[DistillBatch]) -> dict[str, float]:
        """That of each pair and head, of a student's last layer; see `agreement_numbers`."""
        shape = len(self.pairs), 2, self.num_relation_heads
        sums = {name: torch.zeros(shape, dtype=torch.float64) for name in self.students}
        for batch in batches:
            found = self._of_teacher(batch)
            for name, student in self.students.items():
                own, theirs = self.layers[name][-1]
                mine = student.relations_of(batch.packed, [own])[own]
                sums[name] += relation_agreement(
                    found[theirs],
                    mine,
                    batch.packed,
                    pairs=tuple(self.pairs),
                    num_relation_heads=self.num_relation_heads,
                )
        return {
            key: value for name, of in sums.items() for key, value in agreement_numbers(name, [*self.pairs], of).items()
        }

    @cached_property
    def _teacher_layers(self) -> set[int]:
        return {theirs for pairs in self.layers.values() for _, theirs in pairs}

    def _of_teacher(self, batch: DistillBatch) -> Mapping[int, Relations]:
        if len(self._teacher_layers) == 1:
            return dict.fromkeys(self._teacher_layers, self.teacher.document_relations(batch.packed, batch.documents))
        return self.teacher.relations_of(batch.packed)

    def _losses(self, batch: DistillBatch, found: Mapping[int, Relations], name: str) -> dict[str, Tensor]:
        """One value per pair, the mean over the layers."""
        layers = self.layers[name]
        mine = self.students[name].relations_of(batch.packed, [own for own, _ in layers])
        values = [
            relation_loss(
                found[theirs],
                mine[own],
                batch.packed,
                pairs=tuple(self.pairs),
                num_relation_heads=self.num_relation_heads,
                normalization=self.normalization,
                total=batch.total,
            )
            for own, theirs in layers
        ]
        means = torch.stack(values).mean(0).unbind()
        weighted = zip(self.pairs.items(), means, strict=True)
        return {f"{a}-{b}": mean * weight for ((a, b), weight), mean in weighted}
