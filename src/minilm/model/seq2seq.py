"""Packed batches of sources and targets, with the seq2seq attention masks.

In: token ids of B sources, targets and (mask mode v2) pseudo tokens. Out: a `PackedSeq2Seq` without padding.

Source tokens attend to their source. A target token attends to the source and to the targets up to itself; a pseudo
token attends to the source, to the targets before the one it predicts, and to itself. A target token and its pseudo
token share one position id (UniLM, pseudo-masking).

B sequences, T packed tokens, S source tokens, M target tokens, R rows that the loss reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from minilm.errors import UsageError
from minilm.model.packing import Packed, on_device

Ids = NDArray[np.int32]
_Offsets = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PaddedRows:
    """Some rows of each sequence and all its tokens, padded to the max lengths Q and N for one attention call.

    Attributes:
        queries: `[B * Q]` int64, indices of the rows; 0 for padding.
        keys: `[B * N]` int64, indices of the T tokens; 0 for padding.
        mask: `[B, 1, Q, N]`, True where a row may attend; padding attends to the first token, so that its softmax is
            defined.
        kept: int64, indices of the real rows among the B * Q.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor
    kept: Tensor


@dataclass(frozen=True, kw_only=True)
class PackedSeq2Seq:
    """B concatenated pairs; sequence b is its source, then its tail: targets and, with `has_pseudo`, pseudo tokens.

    Attributes:
        packed: all tokens; positions and segments are those of source and target.
        source_lengths: source tokens of each sequence.
        target_lengths: target tokens of each sequence.
        has_pseudo: whether each target token has a pseudo token.
        read_lengths: number of rows of each sequence that the loss reads; all are in its tail.
        read_offsets: `[R]` int64, indices of these rows in the tails, sequence by sequence.
        read_rows: `[R]` int64, their indices among the T tokens.
    """

    packed: Packed
    source_lengths: tuple[int, ...]
    target_lengths: tuple[int, ...]
    has_pseudo: bool
    read_lengths: tuple[int, ...]
    read_offsets: Tensor
    read_rows: Tensor

    @property
    def max_positions(self) -> int:
        """Number of positions of the longest pair."""
        return max(source + target for source, target in zip(self.source_lengths, self.target_lengths, strict=True))

    @cached_property
    def tail_masks(self) -> tuple[Tensor, ...]:
        """True where a tail token may attend to a token of its sequence: `[tail, S + tail]` for each sequence."""
        device = self.packed.token_ids.device
        return tuple(
            on_device(_tail_mask(source, target, self.has_pseudo), device)
            for source, target in zip(self.source_lengths, self.target_lengths, strict=True)
        )

    @cached_property
    def read_masks(self) -> tuple[Tensor, ...]:
        """The rows of `tail_masks` that the loss reads."""
        offsets = self.read_offsets.split(list(self.read_lengths))
        return tuple(mask[chosen] for mask, chosen in zip(self.tail_masks, offsets, strict=True))

    @cached_property
    def padded_tails(self) -> PaddedRows:
        """All tail rows, for devices on which the number of calls dominates."""
        return self._padded(self.tail_lengths, self.tail_masks)

    @cached_property
    def padded_read(self) -> PaddedRows:
        """The rows that the loss reads, for such devices."""
        return self._padded(self.read_lengths, self.read_masks)

    def _padded(self, lengths: Sequence[int], masks: Sequence[Tensor]) -> PaddedRows:
        device = self.packed.token_ids.device
        queries, kept = _rectangle(lengths)
        keys, _ = _rectangle(self.packed.lengths)
        mask = torch.zeros(len(lengths), 1, max(lengths), self.packed.max_len, dtype=torch.bool, device=device)
        mask[..., 0] = True
        for number, own in enumerate(masks):
            mask[number, 0, : own.shape[0], : own.shape[1]] = own
        return PaddedRows(
            queries=on_device(queries, device), keys=on_device(keys, device), mask=mask, kept=on_device(kept, device)
        )

    @cached_property
    def sources(self) -> Packed:
        """The sources alone, as input of `attend`."""
        keep = self.source_rows
        starts = torch.tensor([0, *self.source_lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return Packed(
            token_ids=self.packed.token_ids[keep],
            position_ids=self.packed.position_ids[keep],
            segment_ids=self.packed.segment_ids[keep],
            cu_seqlens=on_device(starts, keep.device),
            lengths=self.source_lengths,
        )

    @cached_property
    def source_rows(self) -> Tensor:
        """Indices of the source tokens among the T tokens, int64."""
        return self._rows(self.source_lengths, [0] * len(self.source_lengths))

    @cached_property
    def tail_rows(self) -> Tensor:
        """Indices of the tail tokens among the T tokens, int64."""
        return self._rows(self.tail_lengths, self.source_lengths)

    @property
    def tail_lengths(self) -> tuple[int, ...]:
        """Target and pseudo tokens of each sequence."""
        return tuple(length - source for length, source in zip(self.packed.lengths, self.source_lengths, strict=True))

    def _rows(self, lengths: Sequence[int], skipped: Sequence[int]) -> Tensor:
        """Indices of part of each sequence: `lengths` tokens after the first `skipped`."""
        starts = np.cumsum([0, *self.packed.lengths[:-1]]) + skipped
        rows = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
        return on_device(_int64(rows), self.packed.token_ids.device)

    def to(self, device: torch.device | str) -> PackedSeq2Seq:
        """The same batch on `device`."""
        return replace(
            self,
            packed=self.packed.to(device),
            read_offsets=on_device(self.read_offsets, device),
            read_rows=on_device(self.read_rows, device),
        )


def pack_seq2seq(
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    *,
    pseudo: Sequence[Ids] | None = None,
    read: Sequence[_Offsets] | None = None,
    target_segment: int = 1,
) -> PackedSeq2Seq:
    """Concatenate B pairs in the given order (adjacent pairs of equal lengths share one attention call).

    Args:
        sources: B token id arrays with their special tokens, none empty.
        targets: B token id arrays, none empty.
        pseudo: the pseudo token of each target token; these are the rows that the loss reads.
        read: without pseudo tokens, the target tokens of each pair that the loss reads; None for all.
        target_segment: segment id of targets and pseudo tokens; sources have 0.

    Raises:
        UsageError: there is no pair, a source or target is empty, or there is not one pseudo token per target token.
    """
    source_lengths, target_lengths = (tuple(map(len, part)) for part in (sources, targets))
    if not source_lengths or min(source_lengths) == 0 or min(target_lengths) == 0:
        raise UsageError("a seq2seq batch needs at least one pair and no empty source or target; omit empty pairs")
    if pseudo is not None and tuple(map(len, pseudo)) != target_lengths:
        raise UsageError("pseudo tokens must be one per target token")
    tokens = [sources, targets] if pseudo is None else [sources, targets, pseudo]
    lengths = np.sum([source_lengths, *[target_lengths] * (len(tokens) - 1)], axis=0)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    read = _read_offsets(target_lengths, read, has_pseudo=pseudo is not None)
    read_lengths = tuple(map(len, read))
    offsets = np.concatenate(read)
    segments = np.repeat(
        np.tile([0, target_segment], len(lengths)), np.stack([source_lengths, lengths - source_lengths], 1).ravel()
    )
    return PackedSeq2Seq(
        packed=Packed(
            token_ids=_int64([ids for parts in zip(*tokens, strict=True) for ids in parts]),
            position_ids=_int64(_positions(source_lengths, target_lengths, num_tails=len(tokens) - 1)),
            segment_ids=torch.from_numpy(segments),
            cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
            lengths=tuple(lengths.tolist()),
        ),
        source_lengths=source_lengths,
        target_lengths=target_lengths,
        has_pseudo=pseudo is not None,
        read_lengths=read_lengths,
        read_offsets=torch.from_numpy(offsets),
        read_rows=torch.from_numpy(offsets + np.repeat(starts[:-1] + source_lengths, read_lengths)),
    )


def _int64(arrays: Sequence[NDArray[np.integer]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _rectangle(lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The row index of each cell of a padded rectangle (0 in padding), and the indices of the non-padding cells."""
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    cells = np.flatnonzero(real)
    rows = np.zeros(real.size, dtype=np.int64)
    rows[cells] = np.arange(len(cells))
    return torch.from_numpy(rows), torch.from_numpy(cells)


def _positions(sources: Sequence[int], targets: Sequence[int], *, num_tails: int) -> list[NDArray[np.integer]]:
    """Target positions continue after the source; pseudo tokens have the same positions as their targets."""
    parts: list[NDArray[np.integer]] = []
    for source, target in zip(sources, targets, strict=True):
        parts += [np.arange(source), *[np.arange(source, source + target)] * num_tails]
    return parts


def _read_offsets(targets: Sequence[int], read: Sequence[_Offsets] | None, *, has_pseudo: bool) -> Sequence[_Offsets]:
    if has_pseudo:
        return [np.arange(target, 2 * target) for target in targets]
    return [np.arange(target) for target in targets] if read is None else read


def _tail_mask(source: int, target: int, has_pseudo: bool) -> Tensor:
    causal = torch.ones(target, target, dtype=torch.bool).tril()
    if has_pseudo:
        itself = torch.eye(target, dtype=torch.bool)
        causal = torch.cat([functional.pad(causal, (0, target)), torch.cat([causal & ~itself, itself], 1)])
    return functional.pad(causal, (source, 0), value=True)
