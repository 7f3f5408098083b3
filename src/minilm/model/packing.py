"""Packed batches: several sequences concatenated without padding.

In: token ids of B sequences, one array each, or as `PackedIds`.
Out: a `Packed` of T = sum of lengths tokens, the batch format of all modules.

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

from minilm.model.packed_ids import PackedIds, pack_ids


@dataclass(frozen=True, kw_only=True)
class Packed:
    """B concatenated sequences; sequence b is `token_ids[cu_seqlens[b]:cu_seqlens[b + 1]]`.

    Attributes:
        token_ids: `[T]` int64.
        position_ids: `[T]` int64, 0, 1, 2, … in each sequence; each model adds its family's first position.
        segment_ids: `[T]` int64.
        cu_seqlens: `[B + 1]` int32 on the device of the tokens.
        lengths: the B lengths on the host (their sum is T).
    """

    token_ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def from_ids(cls, ids: PackedIds) -> Packed:
        """Convert a batch to torch."""
        starts, lengths = ids.cu_seqlens[:-1].astype(np.int64), ids.lengths
        return cls(
            token_ids=torch.from_numpy(ids.token_ids.astype(np.int64)),
            position_ids=torch.from_numpy(np.arange(ids.num_tokens) - np.repeat(starts, lengths)),
            segment_ids=torch.from_numpy(ids.segment_ids.astype(np.int64)),
            cu_seqlens=torch.from_numpy(ids.cu_seqlens),
            lengths=tuple(lengths.tolist()),
        )

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
        """Runs of adjacent sequences of equal length as (number of sequences, length); few if sorted by length."""
        return tuple((len(list(group)), length) for length, group in groupby(self.lengths))

    @property
    def first_rows(self) -> Tensor:
        """`[B]` int64: the row of each sequence's first token (`[CLS]`)."""
        return self.cu_seqlens[:-1].long()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that define the batch, by name; positions follow from the lengths."""
        return {"token_ids": self.token_ids, "segment_ids": self.segment_ids, "cu_seqlens": self.cu_seqlens}

    def to(self, device: torch.device | str) -> Packed:
        """The same batch on `device`."""
        return Packed(
            token_ids=on_device(self.token_ids, device),
            position_ids=on_device(self.position_ids, device),
            segment_ids=on_device(self.segment_ids, device),
            cu_seqlens=on_device(self.cu_seqlens, device),
            lengths=self.lengths,
        )


def on_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; a copy to a GPU is from pinned memory, so that the host does not wait for it."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def pack(sequences: Sequence[np.ndarray], *, segments: Sequence[np.ndarray] | None = None) -> Packed:
    """Concatenate B token-id arrays; see `pack_ids`.

    Raises:
        UsageError: there is no sequence, or one is empty.
    """
    return Packed.from_ids(pack_ids(sequences, segments))


def unpack(rows: Tensor, packed: Packed) -> Iterator[Tensor]:
    """The rows `[T, ...]` of each sequence as `[N_b, ...]` views, in order."""
    return iter(rows.split(list(packed.lengths)))


def unpack_runs(rows: Tensor, packed: Packed) -> Iterator[Tensor]:
    """The rows `[T, ...]` of each run of equally long sequences as `[number of sequences, N, ...]` views, in order."""
    parts = rows.split([count * length for count, length in packed.runs])
    return (part.unflatten(0, run) for run, part in zip(packed.runs, parts, strict=True))
