"""The share of a step of a process that trains text vectors.

In: texts of some rows as packed parts; a function from all vectors to the loss. Out: loss and gradient.

A loss that is a sum over rows runs part by part. A loss over a whole batch needs the vectors of all its texts at once:
they are computed without a graph and gathered from all processes, which form the loss and its gradient for each vector;
then the texts are encoded again, part by part, for the gradient of the weights (GradCache, arXiv 2101.06983). Memory is
that of one part and of the vectors. Dropout repeats itself, see `keyed_dropout.py`, so the gradient is that of one
pass, however the batch is cut and shared.

B texts of a part, M texts of the whole batch, W width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minilm.finetune.keyed_dropout import KeyedDropout, TextKeys
from minilm.model.heads import Model
from minilm.model.packing import Packed, on_device
from minilm.train.accumulate import Backward, StepLoss
from minilm.train.distributed import Ranks, gathered_rows

VectorLoss = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""Maps the vectors of texts, in the order of their rows, and the targets of those rows to a loss."""


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """Texts that are encoded together, shortest first.

    Attributes:
        packed: their tokens.
        places: `[B]` int64, the place of each among the texts that the loss takes.
        keys: what decides their dropout.
    """

    packed: Packed
    places: Tensor
    keys: TextKeys

    def to(self, device: torch.device) -> TextPart:
        """The same part on `device`."""
        return replace(self, packed=self.packed.to(device), places=on_device(self.places, device))

    def vectors(self, model: Model) -> Tensor:
        """The vector of each text, `[B, W]`, in the order of the part."""
        dropout = model.encoder.embeddings.dropout
        assert isinstance(dropout, KeyedDropout), "the task has prepared the model"
        with dropout.keyed(self.packed, self.keys):
            vectors: Tensor = model(self.packed)
        return vectors if vectors.dtype == torch.float64 else vectors.float()


def tensors_of(parts: Sequence[TextPart]) -> dict[str, Tensor]:
    """The texts of each part as `index.name`."""
    return {
        f"{number}.{name}": tensor
        for number, part in enumerate(parts)
        for name, tensor in part.packed.tensors().items()
    }


@dataclass(frozen=True, kw_only=True)
class RowsPart:
    """Some rows, their texts and targets, for a loss that is a sum over rows."""

    texts: TextPart
    targets: Mapping[str, Tensor]
    loss_of: VectorLoss

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.texts.packed.num_tokens

    def tensors(self) -> dict[str, Tensor]:
        """The texts and their targets."""
        return {**self.texts.packed.tensors(), **self.targets}

    def to(self, device: torch.device) -> RowsPart:
        """The same part on `device`."""
        targets = {name: on_device(tensor, device) for name, tensor in self.targets.items()}
        return replace(self, texts=self.texts.to(device), targets=targets)

    def loss(self, model: Model) -> Tensor:
        """Its share of the loss of the step."""
        vectors = self.texts.vectors(model)
        return self.loss_of(vectors[torch.argsort(self.texts.places)], self.targets)


@dataclass(frozen=True, kw_only=True)
class WholeBatch:
    """The texts of this process, and the targets of the rows of all processes.

    Attributes:
        parts: the texts; places count those of this process.
        order: `[M]` int64, the place in the global batch of each text, those of the first process first.
        targets: of all rows.
        loss_of: from the vectors of all texts.
        ranks: this process among those that share the batch.
    """

    parts: Sequence[TextPart]
    order: Tensor
    targets: Mapping[str, Tensor]
    loss_of: VectorLoss
    ranks: Ranks

    @property
    def num_tokens(self) -> int:
        """Tokens of this process."""
        return sum(part.packed.num_tokens for part in self.parts)

    def tensors(self) -> dict[str, Tensor]:
        """The texts of this process, and the targets."""
        return {**tensors_of(self.parts), **self.targets}

    def to(self, device: torch.device) -> WholeBatch:
        """The same batch on `device`."""
        targets = {name: on_device(tensor, device) for name, tensor in self.targets.items()}
        parts = [part.to(device) for part in self.parts]
        return replace(self, parts=parts, order=on_device(self.order, device), targets=targets)

    def accumulate(self, model: Model, backward: Backward) -> StepLoss:
        """Loss and gradient, in one pass if all texts fit into one part of one process, else in two."""
        if len(self.parts) == self.ranks.world_size == 1:
            part = self.parts[0]
            return StepLoss(value=backward(self.loss_of(part.vectors(model)[torch.argsort(part.places)], self.targets)))
        own_texts = sum(len(part.places) for part in self.parts)
        with torch.no_grad():
            found = [part.vectors(model) for part in self.parts]
            own = torch.empty((own_texts, found[0].shape[1]), dtype=found[0].dtype, device=found[0].device)
            own[torch.cat([part.places for part in self.parts])] = torch.cat(found)
            vectors, first = gathered_rows(own, self.ranks)
            whole = torch.empty_like(vectors)
            whole[self.order] = vectors
        with torch.enable_grad(), torch.autocast(whole.device.type, enabled=False):
            loss = self.loss_of(whole.requires_grad_(), self.targets)
            (gradients,) = torch.autograd.grad(loss, whole)
        own_gradients = gradients[self.order[first : first + own_texts]]
        for part in self.parts:
            backward((part.vectors(model) * own_gradients[part.places]).sum())
        return StepLoss(value=loss.detach().double() / self.ranks.world_size)
