"""What runs a model: one protocol, several back ends.

In: a `Packed` batch. Out: the rows somebody reads.

B sequences, T packed tokens, E hidden width, C labels.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from minilm.decode.decoder import Decoder, PosShift
from minilm.model.heads import Model
from minilm.model.packing import Packed
from minilm.model.precision import Precision, torch_dtype
from minilm.model.prepacked import prepack
from minilm.text.tokenizer import Tokenizer


class Engine(Protocol):
    """A back end for encoders and their heads."""

    def hidden(self, packed: Packed) -> Tensor:
        """Last hidden rows of all tokens, `[T, E]` float32."""

    def first(self, packed: Packed) -> Tensor:
        """Last hidden row of each sequence's first token, `[B, E]` float32."""

    def scores(self, packed: Packed) -> Tensor:
        """Scores of the model's head on the host, float32: `[B, C]` of a classifier, `[T, 2]` of a span head."""

    def decoder(self, tokenizer: Tokenizer, *, pos_shift: PosShift) -> Decoder:
        """What generates with the model's mlm head; raises UsageError when it has none."""


class TorchEngine:
    """The packed encoder with frozen weights; on CPUs its linear maps are prepacked."""

    def __init__(self, model: Model, *, precision: Precision = "fp32") -> None:
        """Take over `model`: its weights are converted and frozen in place."""
        self._model = model.eval().requires_grad_(False).to(torch_dtype(precision))
        self._device = self._model.encoder.embeddings.word.weight.device
        prepack(self._model)

    @torch.inference_mode()
    def hidden(self, packed: Packed) -> Tensor:
        """Last hidden rows of all tokens, `[T, E]` float32."""
        hidden_TE: Tensor = self._model.encoder(packed.to(self._device))
        return hidden_TE.float()

    @torch.inference_mode()
    def first(self, packed: Packed) -> Tensor:
        """Last hidden row of each sequence's first token, `[B, E]` float32."""
        return self._model.encoder.first(packed.to(self._device)).float()

    @torch.inference_mode()
    def scores(self, packed: Packed) -> Tensor:
        """Scores of the model's head on the host, float32."""
        scores: Tensor = self._model(packed.to(self._device))
        return scores.float().cpu()

    def decoder(self, tokenizer: Tokenizer, *, pos_shift: PosShift) -> Decoder:
        """What generates with the model's mlm head; raises UsageError when it has none."""
        return Decoder(self._model, tokenizer, pos_shift=pos_shift)
