"""Text classification as an objective of the training loop.

In: token ids with labels, a model with a classification head. Out: cross-entropy per step, held-out accuracy.

B sequences, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from minilm.corpus.order import microbatches, step_documents
from minilm.errors import DataError
from minilm.model.heads import Model
from minilm.model.packing import Packed, pack
from minilm.train.loop import StepLoss


@dataclass(frozen=True, kw_only=True)
class LabelledTexts:
    """Token ids of each text and its label, `labels[i]` in `0..C-1`."""

    sequences: Sequence[NDArray[np.int32]]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse rows that do not pair up.

        Raises:
            DataError: no rows, or not one label per text.
        """
        if not len(self.sequences) or len(self.sequences) != len(self.labels):
            raise DataError(f"found {len(self.sequences)} texts and {len(self.labels)} labels; expected one each")


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """One microbatch, its labels `[B]`, and what its mean weighs in the step's mean."""

    packed: Packed
    labels: Tensor
    weight: float


class ClassificationObjective:
    """Cross-entropy of a model's classification head; all weights are trained."""

    def __init__(
        self,
        model: Model,
        train: LabelledTexts,
        heldout: LabelledTexts,
        *,
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
    ) -> None:
        """Train on `train` in batches of `batch_size` texts, score on `heldout`."""
        self._model, self._train, self._heldout = model, train, heldout
        self._batch_size, self._tokens_per_batch, self._seed = batch_size, tokens_per_batch, seed
        self._device = next(model.parameters()).device

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

    def microbatches(self, step: int) -> list[LabelledBatch]:
        """The texts of `step`, sorted by length, cut by the token budget."""
        rows = step_documents(
            num_documents=len(self._train.labels), batch_size=self._batch_size, seed=self._seed, step=step
        )
        return list(self._batches(self._train, rows))

    def loss(self, batch: LabelledBatch) -> StepLoss:
        """Mean cross-entropy times the batch's weight."""
        value = functional.cross_entropy(self._model(batch.packed).float(), batch.labels) * batch.weight
        return StepLoss(value=value, parts={})

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out cross-entropy and accuracy."""
        self._model.eval()
        loss, correct = 0.0, 0
        for batch in self._batches(self._heldout, np.arange(len(self._heldout.labels))):
            logits_BC = self._model(batch.packed).float()
            loss += batch.weight * float(functional.cross_entropy(logits_BC, batch.labels))
            correct += int((logits_BC.argmax(-1) == batch.labels).sum())
        return {"heldout_loss": loss, "accuracy": correct / len(self._heldout.labels)}

    def _batches(self, texts: LabelledTexts, rows: NDArray[np.int64]) -> Iterator[LabelledBatch]:
        lengths = np.array([len(texts.sequences[row]) for row in rows])
        for part in microbatches(lengths, token_budget=self._tokens_per_batch):
            chosen = rows[part]
            packed = pack(
                [texts.sequences[row] for row in chosen],
            )
            yield LabelledBatch(
                packed=packed.to(self._device),
                labels=torch.from_numpy(texts.labels[chosen]).to(self._device),
                weight=len(part) / len(rows),
            )
