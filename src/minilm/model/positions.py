"""Resize position tables as Microsoft's loader does: repeat the old rows, or truncate.

In: a table or an encoder, and the max sequence length. Out: a table of that length; old rows are unchanged.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from minilm.model.encoder import Encoder

logger = logging.getLogger(__name__)


def tile_positions(table: Tensor, rows: int, *, first: int = 0) -> Tensor:
    """`table` with `rows` rows: truncated, or extended by repeating its rows from `first` on."""
    repeats = -(-(rows - first) // (len(table) - first))
    return torch.cat([table[:first], table[first:].repeat(repeats, 1)])[:rows]


def grow_positions(encoder: Encoder, tokens: int) -> None:
    """Extend the position table to `tokens` tokens, with a warning; a no-op if it is large enough."""
    config = encoder.config
    if tokens <= config.max_tokens:
        return
    old = encoder.embeddings.position.weight.detach()
    first = config.first_position
    logger.warning(
        "the position table was extended from %d to %d tokens: the new rows repeat the old ones until they are trained",
        config.max_tokens,
        tokens,
    )
    encoder.embeddings.position = nn.Embedding.from_pretrained(
        tile_positions(old, tokens + first, first=first), freeze=False
    )
    encoder.config = replace(config, max_positions=tokens + first)
