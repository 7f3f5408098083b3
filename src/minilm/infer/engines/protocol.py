"""The interface of an engine. Importing it needs no torch.

In: batches of token ids, `PackedIds`. Out: numpy arrays, float32. Every engine agrees with the torch engine within a
stated tolerance, and the result of a sequence does not depend on the rest of its batch.

B sequences, T packed tokens, E hidden width, P number of pooling modes, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from minilm.errors import UsageError
from minilm.model.embedding import PoolingMode
from minilm.model.metadata import HeadName
from minilm.model.packed_ids import PackedIds

if TYPE_CHECKING:
    from minilm.decode.decoder import Decoder, PosShift
    from minilm.text.tokenizer import Tokenizer

Float32s = NDArray[np.float32]


class CannotRun(UsageError):
    """An engine cannot run a model here; the message is the reason."""


class PoolingEngine(Protocol):
    """Runs an encoder up to its pooled rows.

    Attributes:
        tokens_per_batch: how many tokens a batch should have at most; a single sequence may have more.
    """

    tokens_per_batch: int

    def pooled(self, batch: PackedIds, pooling: Sequence[PoolingMode], *, skipped: int = 0) -> Float32s:
        """One vector per sequence, `[B, P * E]`, from its last hidden rows, without the first `skipped` of them.

        The vectors of several modes are concatenated. `mean_sqrt_len_tokens` is the sum over the square root of the
        number of rows; `weightedmean` weights each row by its position, from 1, counted with those skipped.
        """


class Engine(PoolingEngine, Protocol):
    """Runs an encoder and its head."""

    @property
    def head(self) -> HeadName | None:
        """The model's trained head, if any."""

    def classify(self, batch: PackedIds) -> Float32s:
        """Scores of the classification head, `[B, C]`."""

    def tokens(self, batch: PackedIds) -> Float32s:
        """Scores of the head for every token, `[T, C]`; C = 2 for a span head, start and end."""


@runtime_checkable
class GenerationEngine(Protocol):
    """An engine that can also generate."""

    def decoder(self, tokenizer: Tokenizer, *, pos_shift: PosShift) -> Decoder:
        """A decoder that uses the model's mlm head; raises UsageError if it has none."""
