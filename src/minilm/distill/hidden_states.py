"""The criterion of hidden states: the teacher's rows from the student's, through a learnt matrix.

In: a batch, the teacher. Out: the mean squared error of each student. The matrices are trained with the students, are
in checkpoints, and are not part of the models that are saved. There is one for each compared layer, without a bias,
also where both widths are equal.

T packed tokens, E hidden width of the student, F hidden width of the teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from minilm.distill.criterion import DistillBatch, LossesOf, RowCounts
from minilm.distill.relation_loss import Normalization, row_weights
from minilm.distill.shapes import LayerPairs
from minilm.model.encoder import Encoder, reset_weights
from minilm.model.packing import Packed, on_device
from minilm.randomness import derived_seed


class HiddenTeacher(Protocol):
    """What the loss needs from a teacher."""

    def hidden_of(self, packed: Packed) -> Mapping[int, Tensor]:
        """Rows after each of its layers, counted from 1, `[T, F]`, without gradient."""


class HiddenCriterion:
    """The rows of the teacher's layers; see this file."""

    def __init__(
        self,
        teacher: HiddenTeacher,
        students: Mapping[str, Encoder],
        *,
        layers: Mapping[str, LayerPairs],
        width: int,
        normalization: Normalization,
        seed: int,
    ) -> None:
        """Create the matrices.

        Args:
            teacher: the teacher.
            students: by name, on the device of training.
            layers: of each student, which of its layers is compared with which of the teacher's.
            width: F.
            normalization: how rows are averaged.
            seed: of the run.
        """
        self._teacher, self.students, self._layers, self._normalization = teacher, students, layers, normalization
        self._projections = {
            name: nn.ModuleDict({str(own): _projection(student, width, seed, name, own) for own, _ in layers[name]})
            for name, student in students.items()
        }

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The matrices, by the index of the student and its layer."""
        return {"projections": nn.ModuleList(self._projections.values())}

    def parameters(self, name: str) -> list[nn.Parameter]:
        """What the rows of the compared layers depend on, and the matrices."""
        return [*self.students[name].hidden_parameters(), *self._projections[name].parameters()]

    def head(self, name: str) -> None:
        """Students have none."""

    def counted_rows(self, lengths: RowCounts) -> RowCounts:
        """All."""
        return lengths

    def agreement(self, batches: Iterable[DistillBatch]) -> dict[str, float]:
        """Nothing: no relations are compared."""
        return {}

    def prepare(self, batch: DistillBatch) -> LossesOf:
        """Compute the teacher's rows."""
        return partial(self._losses, batch, self._teacher.hidden_of(batch.packed))

    def _losses(self, batch: DistillBatch, found: Mapping[int, Tensor], name: str) -> dict[str, Tensor]:
        """The mean over the layers."""
        packed, layers, values = batch.packed, self._layers[name], []
        lengths = torch.tensor(packed.lengths)
        weights_T = torch.tensor(row_weights(packed.lengths, self._normalization, batch.total))
        weights_T = on_device(weights_T.repeat_interleave(lengths), packed.token_ids.device)
        mine = self.students[name].hidden_of(packed, [own for own, _ in layers])
        for own, theirs in layers:
            guess_TF = self._projections[name][str(own)](mine[own])
            error_T = (guess_TF.float() - found[theirs].float()).square().mean(-1)
            values.append((error_T * weights_T).sum())
        return {"hidden": torch.stack(values).mean()}


def _projection(student: Encoder, width: int, seed: int, name: str, layer: int) -> nn.Linear:
    """A matrix with weights like those of a student's."""
    config = student.config
    made = nn.Linear(config.hidden_size, width, bias=False)
    generator = torch.Generator().manual_seed(derived_seed(seed, "projection", name, layer))
    reset_weights(made, config.initializer_range, generator)
    return made.to(student.embeddings.position.weight.device)
