"""Framework-independent packed batches: token ids of several sequences concatenated, in numpy.

In: token ids of B sequences, one array each. Out: a `PackedIds` of T = sum of lengths tokens, the input of engines.

B sequences, T packed tokens, N tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from minilm.errors import UsageError

Int32s = NDArray[np.int32]
S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedIds:
    """B concatenated sequences; sequence b is `token_ids[cu_seqlens[b]:cu_seqlens[b + 1]]`.

    Attributes:
        token_ids: `[T]` int32.
        segment_ids: `[T]` int32.
        cu_seqlens: `[B + 1]` int32, 0 first, T last.
    """

    token_ids: Int32s
    segment_ids: Int32s
    cu_seqlens: Int32s

    @property
    def lengths(self) -> Int32s:
        """`[B]`: the number of tokens of each sequence."""
        return np.diff(self.cu_seqlens)

    @property
    def num_sequences(self) -> int:
        """B."""
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)

    def split(self, rows_T: NDArray[S]) -> list[NDArray[S]]:
        """The rows `[T, ...]` of each sequence as `[N_b, ...]` views, in order."""
        return np.split(rows_T, self.cu_seqlens[1:-1])


def pack_ids(sequences: Sequence[np.ndarray], segments: Sequence[np.ndarray] | None = None) -> PackedIds:
    """Concatenate B token-id arrays in the given order (sort by length for the fastest attention).

    Args:
        sequences: B integer arrays `[N_b]`, none empty.
        segments: segment ids of the same shapes; default all 0.

    Raises:
        UsageError: there is no sequence, or one is empty.
    """
    lengths = [len(sequence) for sequence in sequences]
    if not lengths or min(lengths) == 0:
        raise UsageError("a packed batch needs at least one sequence and no empty sequence; omit empty sequences")
    token_ids = np.concatenate(sequences).astype(np.int32)
    segment_ids = np.zeros_like(token_ids) if segments is None else np.concatenate(segments).astype(np.int32)
    return PackedIds(
        token_ids=token_ids,
        segment_ids=segment_ids,
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    )
