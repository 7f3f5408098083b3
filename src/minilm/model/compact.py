"""A word embedding table reduced to the rows in use during training.

In: a full table and the ids that occur. Out: a replacement module with a weight `[U, E]`; afterwards the full table
again. Its other rows are what the optimizer would have made of them.

Rows that are not in use get no gradient. Weight decay alone changes them, all by the same factor, so one number
replaces three numbers per weight: for a small encoder, half the memory of the optimizer.

V vocabulary, U rows in use, E hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from minilm.model.encoder import Embeddings


class CompactTable(nn.Module):
    """Maps ids of the full vocabulary to the rows in use, `[...]` -> `[..., E]`."""

    weight: nn.Parameter

    def __init__(self, table: nn.Embedding, used_ids: Tensor) -> None:
        """Take the rows `used_ids` (unique) of `table`; other ids must not be looked up."""
        super().__init__()
        self._full = table.weight.detach()
        self._used_ids = used_ids.to(table.weight.device)
        self.weight = nn.Parameter(self._full[self._used_ids].clone())
        new_ids = torch.full((len(self._full),), len(used_ids), dtype=torch.int64, device=self._full.device)
        new_ids[self._used_ids] = torch.arange(len(used_ids), device=self._full.device)
        padding = table.padding_idx
        self._padding = int(new_ids[padding]) if padding is not None and new_ids[padding] < len(used_ids) else None
        self._padding_idx = padding
        self.register_buffer("new_ids", new_ids, persistent=False)
        self.register_buffer("decayed", torch.ones((), dtype=torch.float64))  # in checkpoints, so that runs resume

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of `ids`; an id without a row raises an index error."""
        assert isinstance(self.new_ids, Tensor)
        return functional.embedding(self.new_ids[ids], self.weight, padding_idx=self._padding)

    def decay_other_rows(self, factor: float) -> None:
        """Multiply the rows that are not in use by `factor`; applied when the table is expanded."""
        assert isinstance(self.decayed, Tensor)
        self.decayed.mul_(factor)

    def expanded(self) -> nn.Embedding:
        """The full table with the current values of the rows in use, and the others decayed."""
        assert isinstance(self.decayed, Tensor)
        full = self._full * self.decayed.item()
        full[self._used_ids] = self.weight.detach()
        table: nn.Embedding = nn.Embedding.from_pretrained(full, freeze=False, padding_idx=self._padding_idx)
        return table


def hold_rows(embeddings: Embeddings, used_ids: NDArray[np.int64]) -> None:
    """Train only the rows `used_ids` (unique) of the word embedding table."""
    assert isinstance(embeddings.word, nn.Embedding)
    embeddings.word = CompactTable(embeddings.word, torch.from_numpy(used_ids))


def decay_rows_not_in_use(module: nn.Module, factor: float) -> None:
    """Apply one update's weight decay to the rows that the compact tables of `module` leave out."""
    for part in module.modules():
        if isinstance(part, CompactTable):
            part.decay_other_rows(factor)


@contextmanager
def whole_table(embeddings: Embeddings) -> Iterator[None]:
    """Replace a compact table by the full one for the duration of the block, for example to save it."""
    table = embeddings.word
    embeddings.word = table.expanded() if isinstance(table, CompactTable) else table
    try:
        yield
    finally:
        embeddings.word = table
