"""Batches of token ids, and their results in the original order.

In: token ids of many sequences. Out: one result per sequence, in order; memory is bounded by one chunk.

Each chunk of texts is tokenized at once, sorted by length and batched by a token budget: the cost of a batch is that of
its tokens, and neighbors of equal length share one attention call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from minilm.model.packed_ids import Int32s, PackedIds, pack_ids
from minilm.model.token_budget import microbatches

TEXTS_PER_CHUNK = 4096  # tokenized and sorted together
TOKENS_PER_BATCH = 4096

V = TypeVar("V")


def in_order(
    token_ids: Sequence[Int32s],
    segment_ids: Sequence[Int32s] | None,
    compute: Callable[[PackedIds], Iterable[V]],
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> list[V]:
    """The results of `compute`, one per sequence, in the order of the sequences.

    `compute` maps a packed batch of B sequences to B results, such as the rows of an array `[B, ...]`.
    """
    results: dict[int, V] = {}
    lengths = np.array([len(sequence) for sequence in token_ids])
    for part in microbatches(lengths, token_budget=tokens_per_batch):
        segments = None if segment_ids is None else [segment_ids[index] for index in part]
        batch = pack_ids([token_ids[index] for index in part], segments)
        results.update(zip(part.tolist(), compute(batch), strict=True))
    return [results[number] for number in range(len(token_ids))]


def chunked(items: Iterable[V], size: int) -> Iterator[list[V]]:
    """Split a stream into lists of at most `size` items, lazily."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk
