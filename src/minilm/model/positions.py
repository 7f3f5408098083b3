"""Position tables of another length, by the rule of Microsoft's loader: the old rows again and again, or cut.

In: a table or an encoder, and how many tokens a sequence may have. Out: the table of that length; old rows unchanged.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from minilm.model.encoder import Encoder

logger = logging.getLogger(__name__)


def tile_positions(table: Tensor, rows: int, *, first: int = 0) -> Tensor:
    """`table` with `rows` rows: cut, or its rows from `first` on repeated."""
    repeats = -(-(rows - first) // (len(table) - first))
    return torch.cat([table[:first], table[first:].repeat(repeats, 1)])[:rows]


def grow_positions(encoder: Encoder, tokens: int) -> None:
    """Make room for sequences of `tokens` tokens, with a warning; nothing happens where there is room already."""
    config = encoder.config
    if tokens <= config.max_tokens:
        return
    old = encoder.embeddings.position.weight.detach()
    first = config.first_position
    logger.warning(
        "the position table is grown from %d to %d tokens: the new rows repeat the old ones until they are trained",
        *(config.max_tokens, tokens),
    )
    encoder.embeddings.position = nn.Embedding.from_pretrained(
        tile_positions(old, tokens + first, first=first), freeze=False
    )
    encoder.config = replace(config, max_positions=tokens + first)
