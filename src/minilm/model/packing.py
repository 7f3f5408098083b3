"""Packed batches: several sequences laid end to end, no padding token anywhere.

In: token ids of B sequences, one array each.
Out: one `Packed` of T = sum of lengths tokens that every room passes along.

B sequences, T packed tokens, N tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from minilm.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Packed:
    """B sequences end to end; sequence b is `token_ids[cu_seqlens[b]:cu_seqlens[b + 1]]`.

    Attributes:
        token_ids: `[T]` int64.
        position_ids: `[T]` int64, 0, 1, 2 … in each sequence; each model adds its family's first position.
        segment_ids: `[T]` int64.
        cu_seqlens: `[B + 1]` int32 on the device of the tokens.
        lengths: the B lengths on the host (their sum is T).
    """

    token_ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]

    @property
    def max_len(self) -> int:
        """Length of the longest sequence."""
        return max(self.lengths)

    @property
    def num_sequences(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """T."""
        return sum(self.lengths)

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Runs of neighbours of equal length as (number of sequences, length); few when sorted by length."""
        return tuple((len(list(group)), length) for length, group in groupby(self.lengths))

    @property
    def first_rows(self) -> Tensor:
        """`[B]` int64: the row of each sequence's first token (`[CLS]`)."""
        return self.cu_seqlens[:-1].long()

    def tensors(self) -> dict[str, Tensor]:
        """What defines the batch, by name; positions follow from the lengths."""
        return {"token_ids": self.token_ids, "segment_ids": self.segment_ids, "cu_seqlens": self.cu_seqlens}

    def to(self, device: torch.device | str) -> Packed:
        """The same batch on `device`."""
        return Packed(
            token_ids=self.token_ids.to(device),
            position_ids=self.position_ids.to(device),
            segment_ids=self.segment_ids.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
            lengths=self.lengths,
        )


def pack(
    sequences: Sequence[np.ndarray],
    *,
    segments: Sequence[np.ndarray] | None = None,
) -> Packed:
    """Lay B token-id arrays end to end, in the order given (sort by length for the fastest attention).

    Args:
        sequences: B integer arrays `[N_b]`, none empty.
        segments: segment ids of the same shapes; 0 everywhere when absent.

    Raises:
        UsageError: no sequence, or an empty one.
    """
    lengths = tuple(len(sequence) for sequence in sequences)
    if not lengths or min(lengths) == 0:
        raise UsageError("a packed batch needs at least one sequence and no empty sequence; leave empty ones out")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    token_ids = torch.from_numpy(np.concatenate(sequences).astype(np.int64))
    if segments is None:
        segment_ids = torch.zeros_like(token_ids)
    else:
        segment_ids = torch.from_numpy(np.concatenate(segments).astype(np.int64))
    return Packed(
        token_ids=token_ids,
        position_ids=torch.from_numpy(positions),
        segment_ids=segment_ids,
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        lengths=lengths,
    )


def unpack(rows: Tensor, packed: Packed) -> Iterator[Tensor]:
    """The rows `[T, ...]` of each sequence as `[N_b, ...]` views, in order."""
    return iter(rows.split(list(packed.lengths)))
