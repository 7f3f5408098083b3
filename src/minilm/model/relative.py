"""Relative positions: a bias of attention scores that depends on the distance of two tokens (MPNet).

In: a `Packed` batch. Out: for each of its runs of equal lengths, the bias of every head, shared by all layers.

H heads, N tokens of one sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minilm.model.config import NUM_BUCKETS
from minilm.model.packing import Packed, on_device

# Distance from which each bucket of one direction holds, after bucket 0: one bucket per distance, then by logarithm
# (8 * 2^(k / 2), rounded up); the last bucket holds all larger distances.
_FROM = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)


class RelativeBias(nn.Module):
    """A table of one value per bucket and head, `[32, H]`."""

    def __init__(self, num_heads: int) -> None:
        """Create the table; `Encoder.reset` or a checkpoint sets its values."""
        super().__init__()
        self.table = nn.Embedding(NUM_BUCKETS, num_heads)

    def forward(self, packed: Packed) -> list[Tensor]:
        """`[H, N, N]` for each run of `packed`: what is added to the score of query i and key j."""
        return [self._of_length(length) for _, length in packed.runs]

    def _of_length(self, length: int) -> Tensor:
        offsets = torch.arange(1 - length, length, device=self.table.weight.device)  # key minus query
        by_offset_HO = self.table(buckets(offsets)).T
        bias_HNN: Tensor = by_offset_HO.unfold(1, length, 1).flip(1)  # window r starts at the offset of key 0 to
        return bias_HNN  # query N - 1 - r


def buckets(offsets: Tensor) -> Tensor:
    """The bucket of each offset from query to key: 0 to 15 for keys up to the query, 16 to 31 for keys after it."""
    starts = on_device(torch.tensor(_FROM), offsets.device)
    return torch.bucketize(offsets.abs(), starts, right=True) + NUM_BUCKETS // 2 * (offsets > 0)
