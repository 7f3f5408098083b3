"""Dropout that depends on the text alone: on seed, step, row and the number of the text in its row.

In: a model; the keys of the texts of a batch. Out: the model with `KeyedDropout` in place of its dropout modules.
A text has the same masks in every pass, in any batch and in any process, so that a loss over a whole batch can encode
its texts twice, and its gradient does not depend on how they are cut into parts.

T packed tokens, E hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minilm.model.encoder import Encoder
from minilm.model.packing import Packed
from minilm.randomness import bit_generator

_LEVELS = 2**16  # of a random number
_PER_DRAW = 4  # random numbers in 64 bits


@dataclass(frozen=True, kw_only=True, slots=True)
class TextKeys:
    """What decides the masks of the texts of a batch.

    Attributes:
        seed: of the run.
        step: number of the step.
        texts: for each text its row in the global batch, and its number in the row.
    """

    seed: int
    step: int
    texts: Sequence[tuple[int, int]]


@dataclass
class _Texts:
    """The random numbers and the lengths of the texts of a pass; none outside of one."""

    streams: Sequence[np.random.PCG64] = ()
    lengths: Sequence[int] = ()


class KeyedDropout(nn.Module):
    """Dropout of rows `[T, E]`, or of one row of each text; inside `keyed` only."""

    def __init__(self, rate: float, *, beside: KeyedDropout | None = None) -> None:
        """Zero a share `rate` of the values, rounded to a multiple of 2^-16.

        `beside` is another one of the same model, with another rate, whose random numbers continue here.
        """
        super().__init__()
        self.rate = round(rate * _LEVELS) / _LEVELS
        self._texts: _Texts = _Texts() if beside is None else beside._texts

    def forward(self, rows_TE: Tensor) -> Tensor:
        """The rows with zeros, the others scaled up; unchanged in evaluation."""
        if not self.training or not self.rate:
            return rows_TE
        texts = self._texts
        assert texts.streams, "training runs inside `keyed`"
        width = rows_TE.shape[1]
        lengths = texts.lengths if sum(texts.lengths) == len(rows_TE) else [1] * len(texts.streams)
        drawn = [
            stream.random_raw(math.ceil(length * width / _PER_DRAW)).view(np.uint16)[: length * width]
            for stream, length in zip(texts.streams, lengths, strict=True)
        ]
        kept = torch.from_numpy(np.concatenate(drawn) >= round(self.rate * _LEVELS)).view(rows_TE.shape)
        return rows_TE * kept.to(rows_TE.device, rows_TE.dtype).mul_(1 / (1 - self.rate))

    @contextmanager
    def keyed(self, packed: Packed, keys: TextKeys) -> Iterator[None]:
        """Draw the masks of these texts for the duration of the block, which is one pass."""
        texts = self._texts
        texts.lengths = packed.lengths
        if self.training:
            texts.streams = [bit_generator(keys.seed, "dropout", keys.step, *text) for text in keys.texts]
        try:
            yield
        finally:
            texts.streams, texts.lengths = (), ()


def key_dropout(encoder: Encoder, rate: float | None) -> KeyedDropout:
    """Replace all dropout of hidden rows by one `KeyedDropout`, of `rate` or that of the encoder's configuration."""
    dropout = KeyedDropout(encoder.config.hidden_dropout if rate is None else rate)
    for module in encoder.modules():
        for name, child in list(module._modules.items()):  # unlike named_children, with both names of a shared one
            if isinstance(child, nn.Dropout):
                setattr(module, name, dropout)
    return dropout
