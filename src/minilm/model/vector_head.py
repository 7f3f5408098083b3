"""The head that makes text vectors in training: pooling, and a linear map where there is one.

In: rows of the last layer. Out: one vector per text, before it is scaled to length 1.

B texts, E hidden width, W width of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minilm.model.embedding import PoolingMode
from minilm.model.encoder import Encoder
from minilm.model.packing import Packed
from minilm.model.pooling import pool_rows
from minilm.model.vector_modules import Dense


class VectorHead(nn.Module):
    """Pooled rows, `[B, E]`, and what a linear map makes of them, `[B, W]`."""

    def __init__(self, pooling: PoolingMode, dense: nn.Linear | None = None) -> None:
        """Pool as `pooling` says; without `dense`, W = E."""
        super().__init__()
        self.pooling = pooling
        self.dense = dense

    def forward(self, encoder: Encoder, packed: Packed) -> Tensor:
        """The vector of each text."""
        pooled_BE = self.pooled(encoder, packed)
        return pooled_BE if self.dense is None else self.dense(pooled_BE)

    def pooled(self, encoder: Encoder, packed: Packed) -> Tensor:
        """What the map applies to."""
        if self.pooling == "cls":
            return encoder.first(packed)
        return pool_rows(encoder(packed), packed, [self.pooling], skipped=0)


def linear_of(dense: Dense) -> nn.Linear:
    """A linear map with the weights of a module of a model folder."""
    made = nn.Linear(dense.weight.shape[1], dense.weight.shape[0], bias=dense.bias is not None)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(dense.weight))
        if dense.bias is not None:
            made.bias.copy_(torch.tensor(dense.bias))
    return made


def dense_of(linear: nn.Linear) -> Dense:
    """A linear map as the module of a model folder."""
    bias = None if linear.bias is None else linear.bias.detach().cpu().numpy()
    return Dense(weight=linear.weight.detach().cpu().numpy(), bias=bias)
