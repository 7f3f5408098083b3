"""What runs a model: one protocol, several back ends.

In: a `Packed` batch. Out: the rows somebody reads.

B sequences, T packed tokens, E hidden width.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from minilm.model.encoder import Encoder
from minilm.model.packing import Packed
from minilm.model.prepacked import prepack

Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Engine(Protocol):
    """A back end for encoders."""

    def hidden(self, packed: Packed) -> Tensor:
        """Last hidden rows of all tokens, `[T, E]` float32."""

    def first(self, packed: Packed) -> Tensor:
        """Last hidden row of each sequence's first token, `[B, E]` float32."""


class TorchEngine:
    """The packed encoder with frozen weights; on CPUs its linear maps are prepacked."""

    def __init__(self, encoder: Encoder, *, precision: Precision = "fp32") -> None:
        """Take over `encoder`: its weights are converted and frozen in place."""
        self._encoder = encoder.eval().requires_grad_(False).to(DTYPES[precision])
        self._device = self._encoder.embeddings.word.weight.device
        prepack(self._encoder)

    @torch.inference_mode()
    def hidden(self, packed: Packed) -> Tensor:
        """Last hidden rows of all tokens, `[T, E]` float32."""
        hidden_TE: Tensor = self._encoder(packed.to(self._device))
        return hidden_TE.float()

    @torch.inference_mode()
    def first(self, packed: Packed) -> Tensor:
        """Last hidden row of each sequence's first token, `[B, E]` float32."""
        return self._encoder.first(packed.to(self._device)).float()
