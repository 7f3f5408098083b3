"""Key/value cache of a batch during decoding: each source once per example, then the targets of all its beams.

In: key and value rows of each layer. Out: attended values of the newest rows.

Reordering beams copies nothing: keys stay in place, and a visibility mask records which columns each beam sees (its
source and its own ancestors). Finished examples are evicted; the last examples move into the freed slots.

B examples, K beams, W new rows per example (Q of them query), S longest source, C columns, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minilm.model.config import EncoderConfig
from minilm.model.packing import Packed, unpack


class Cache:
    """Created by `Decoder.start`; carries the decoding state from one step to the next."""

    def __init__(self, config: EncoderConfig, packed: Packed, *, beams: int, room: int, dtype: torch.dtype) -> None:
        """Allocate space for the sources in `packed` and for `room` tokens per beam."""
        device = packed.token_ids.device
        self._used = packed.max_len
        columns = packed.max_len + beams * room
        shape = (packed.num_sequences, config.num_heads, columns, config.head_size)
        self._keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self._values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.lengths = torch.tensor(packed.lengths, device=device)
        self._seen = (torch.arange(columns, device=device) < self.lengths[:, None])[:, None]
        self._columns = slice(0, 0)
        self._mask = torch.empty(0)

    @property
    def num_examples(self) -> int:
        """B, the active examples."""
        return len(self.lengths)

    def store_source(self, layer: int, key_THD: Tensor, value_THD: Tensor, packed: Packed) -> None:
        """Store the keys and values of the sources for `layer` (counted from 0)."""
        for kept, rows in ((self._keys[layer], key_THD), (self._values[layer], value_THD)):
            for number, own in enumerate(unpack(rows, packed)):
                kept[number, :, : len(own)] = own.transpose(0, 1)
                kept[number, :, len(own) : packed.max_len] = 0  # masked, but 0 x NaN would still be NaN

    def open_step(self, parents_BK: Tensor | None, *, kept: bool, passing: bool) -> None:
        """Prepare a step with one `kept` row per beam, one `passing` row per beam, or both.

        Kept rows stay in the cache; a passing row is visible only to itself and is overwritten by the next step. The
        new rows of an example are its kept rows, then its passing rows. `parents_BK` is the beam that each beam
        extends; None at the first step, which has a single beam.
        """
        if parents_BK is not None:
            self._seen = self._seen[torch.arange(self.num_examples, device=parents_BK.device)[:, None], parents_BK]
        rows = self._seen.shape[1]
        itself = torch.eye(rows, dtype=torch.bool, device=self._seen.device)
        first, last = self._used, self._used + rows * (kept + passing)
        if kept:
            self._seen[:, :, first : first + rows] = itself
            self._used += rows
        views = [self._seen[:, :, :last]] if kept else []
        if passing:
            own = self._seen[:, :, :last].clone()
            own[:, :, last - rows :] = itself
            views.append(own)
        seen = torch.cat(views, 1)[:, None]
        self._columns = slice(first, last)
        self._mask = torch.zeros(seen.shape, dtype=self._keys[0].dtype, device=seen.device)
        self._mask.masked_fill_(~seen, -torch.inf)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store new key and value rows `[B W, H, D]`; attend from the last Q rows of each example, `[B Q, H, D]`."""
        query_BHQD, key_BHWD, value_BHWD = (
            rows.view(self.num_examples, -1, *rows.shape[1:]).transpose(1, 2) for rows in (query, key, value)
        )
        self._keys[layer][:, :, self._columns] = key_BHWD
        self._values[layer][:, :, self._columns] = value_BHWD
        attended = scaled_dot_product_attention(
            query_BHQD,
            self._keys[layer][:, :, : self._columns.stop],
            self._values[layer][:, :, : self._columns.stop],
            attn_mask=self._mask[:, :, -query_BHQD.shape[2] :],
        )
        return attended.transpose(1, 2).reshape(query.shape)

    def keep(self, kept: Sequence[int]) -> list[int]:
        """Evict all examples except `kept` (ascending indices).

        Returns:
            The old index of the example in each slot; only examples from the end have moved.
        """
        count = len(kept)
        holes = sorted(set(range(count)) - set(kept))
        moved = [number for number in kept if number >= count]
        order = list(range(count))
        for hole, number in zip(holes, moved, strict=True):
            order[hole] = number
        for layers in (self._keys, self._values):
            for layer, rows in enumerate(layers):
                for hole, number in zip(holes, moved, strict=True):
                    rows[hole, :, : self._used] = rows[number, :, : self._used]
                layers[layer] = rows[:count]
        self.lengths, self._seen = self.lengths[order], self._seen[order]
        return order
