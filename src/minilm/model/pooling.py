"""Pooling in torch: the rows of each sequence to one vector.

In: last hidden rows of a packed batch. Out: one vector per sequence; several modes are concatenated.

B sequences, T packed tokens, N tokens of one sequence, E hidden width, P number of modes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minilm.model.embedding import PoolingMode
from minilm.model.packing import Packed, unpack_runs


def pool_rows(hidden_TE: Tensor, packed: Packed, modes: Sequence[PoolingMode], *, skipped: int) -> Tensor:
    """`[T, E]` -> `[B, P * E]`; the first `skipped` rows of each sequence are left out."""
    return torch.cat(
        [
            torch.cat([_pooled(hidden_BNE, mode, skipped) for mode in modes], dim=1)
            for hidden_BNE in unpack_runs(hidden_TE, packed)
        ]
    )


def _pooled(hidden_BNE: Tensor, mode: PoolingMode, skipped: int) -> Tensor:
    kept = hidden_BNE[:, skipped:]
    length = kept.shape[1]
    if not length:  # what sentence-transformers computes where the prompt takes all tokens
        if mode == "cls":
            return hidden_BNE[:, 0]
        return torch.full_like(hidden_BNE[:, 0], float("-inf") if mode == "max" else 0.0)
    if mode == "cls":
        return kept[:, 0]
    if mode == "lasttoken":
        return kept[:, -1]
    if mode == "max":
        return kept.amax(1)
    if mode == "mean":
        return kept.mean(1)
    if mode == "mean_sqrt_len_tokens":
        return kept.sum(1) / math.sqrt(length)
    weights = torch.arange(skipped + 1, skipped + length + 1, dtype=kept.dtype, device=kept.device)
    weighted: Tensor = (kept * weights[None, :, None]).sum(1) / weights.sum()
    return weighted
