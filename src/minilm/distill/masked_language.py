"""The criterion of masked tokens: a masked language model by itself, or one that learns a teacher's distribution.

In: a batch of masked text. Out: the cross entropy of the tokens that were masked, or the divergence from what the
teacher's head says there.

T packed tokens, M masked tokens, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from minilm.distill.criterion import DistillBatch, LossesOf, RowCounts
from minilm.distill.masking import Masking
from minilm.distill.relation_loss import Normalization, row_weights
from minilm.distill.teacher_base import Teacher
from minilm.errors import DataError
from minilm.files.json import read_json
from minilm.model.checkpoint import read_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder, Relations
from minilm.model.heads import MaskedLanguageHead
from minilm.model.metadata import config_file, saved_head, untied_output
from minilm.model.packing import Packed
from minilm.recipe.student_shape import TeacherSizes


class LanguageTeacher(Teacher):
    """A teacher with a trained head for masked tokens, in our encoder."""

    def __init__(self, encoder: Encoder, head: MaskedLanguageHead, *, sizes: TeacherSizes) -> None:
        """Wrap a frozen model."""
        super().__init__(sizes)
        self._encoder, self._head = encoder, head

    @property
    def engine(self) -> str:
        """What computes it."""
        return "torch, with its head"

    @torch.no_grad()
    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the layer, each `[T, H, D]`."""
        return self._encoder.relations(packed, layer=self.layer)

    @torch.no_grad()
    def log_probabilities(self, packed: Packed, rows_M: Tensor) -> Tensor:
        """Logarithms of what it expects at some rows, `[M, V]` float32."""
        scores_MV = self._head.score(self._encoder(packed)[rows_M], self._encoder)
        return torch.log_softmax(scores_MV.float(), dim=-1)


def require_trained_head(folder: Path) -> None:
    """Require a teacher with a head for masked tokens, by its configuration.

    Raises:
        DataError: it has none, or none that is read here.
    """
    file = config_file(folder)
    values = read_json(file)
    wanted = "loss.labels soft needs a teacher with a trained head for masked tokens, such as bert-base-uncased"
    if not EncoderConfig.is_family(values):
        raise DataError(
            f"teacher {folder}: {wanted}; the head of model_type {values.get('model_type')!r:.60} is not read here; "
            "use labels: hard"
        )
    if saved_head(folder) != "mlm":
        found = values.get("architectures")
        raise DataError(f"teacher {folder}: {wanted}; {file} has architectures {found!r:.80}; use labels: hard")
    if untied := untied_output(folder):
        raise DataError(f"{untied}; or use loss.labels hard")


def load_language_teacher(folder: Path, sizes: TeacherSizes, *, precision: torch.dtype, device: str) -> LanguageTeacher:
    """Read a model with its head.

    Raises:
        DataError: the weights lack the head.
    """
    model = read_model(folder, head="mlm", fresh_head=False)
    if not isinstance(model.head, MaskedLanguageHead):
        raise DataError(
            f"teacher {folder}: the weights lack the head for masked tokens, which loss.labels soft needs; use the "
            "complete folder of the model, or labels: hard"
        )
    model.to(device=device, dtype=precision).requires_grad_(False)
    return LanguageTeacher(model.encoder, model.head, sizes=sizes)


class MaskedLanguageCriterion:
    """The tokens that were masked; see this file."""

    def __init__(
        self,
        students: Mapping[str, Encoder],
        heads: Mapping[str, MaskedLanguageHead],
        *,
        masking: Masking,
        normalization: Normalization,
        teacher: LanguageTeacher | None = None,
    ) -> None:
        """Train students and their heads, by name; with a teacher on its distribution, else on the tokens."""
        self.students, self._heads = students, heads
        self._masking, self._normalization, self._teacher = masking, normalization, teacher

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The heads, by the index of the student."""
        return {"heads": nn.ModuleList(self._heads.values())}

    def parameters(self, name: str) -> list[nn.Parameter]:
        """What the rows of the last layer depend on, and the head."""
        return [*self.students[name].hidden_parameters(), *self._heads[name].parameters()]

    def head(self, name: str) -> MaskedLanguageHead:
        """The head of a student."""
        return self._heads[name]

    def counted_rows(self, lengths: RowCounts) -> RowCounts:
        """Those that are masked."""
        return self._masking.counts(lengths)

    def agreement(self, batches: Iterable[DistillBatch]) -> dict[str, float]:
        """Nothing: no relations are compared."""
        return {}

    def prepare(self, batch: DistillBatch) -> LossesOf:
        """Compute the teacher's distribution, if there is one."""
        assert batch.masked is not None, "documents are masked where they are read"
        known = None
        if self._teacher is not None:
            known = self._teacher.log_probabilities(batch.packed, batch.masked.rows)
        return partial(self._losses, batch, known)

    def _losses(self, batch: DistillBatch, known_MV: Tensor | None, name: str) -> dict[str, Tensor]:
        assert batch.masked is not None
        student, masked = self.students[name], batch.masked
        scores_MV = self._heads[name].score(student(batch.packed)[masked.rows], student).float()
        if known_MV is None:
            loss_M = functional.cross_entropy(scores_MV, masked.labels, reduction="none")
        else:
            loss_M = (known_MV.exp() * (known_MV - torch.log_softmax(scores_MV, dim=-1))).sum(-1)
        weights = torch.tensor(row_weights(masked.counts, self._normalization, batch.total))
        weights_M = weights.repeat_interleave(torch.tensor(masked.counts)).to(loss_M)
        return {"mlm": (loss_M * weights_M).sum()}
