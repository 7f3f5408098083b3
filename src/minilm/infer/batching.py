"""From any stream of texts to packed batches and back to the order of the texts.

In: texts, one by one if need be. Out: one result per text, in order; memory is bounded by one window.

Texts are tokenized once per window, sorted by their number of tokens and cut by a token budget: a batch
costs what its tokens cost, and neighbours of equal length share one attention call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from minilm.model.packing import Packed, pack
from minilm.model.token_budget import microbatches

WINDOW = 4096  # texts that are tokenized and sorted together
TOKEN_BUDGET = 4096  # tokens of one batch

Ids = NDArray[np.int32]
V = TypeVar("V")


def packed_batches(
    token_ids: Sequence[Ids], segment_ids: Sequence[Ids] | None = None, *, token_budget: int = TOKEN_BUDGET
) -> Iterator[tuple[NDArray[np.int64], Packed]]:
    """Yield batches of sequences of similar length, each with the numbers of its sequences; all come once."""
    lengths = np.array([len(sequence) for sequence in token_ids])
    for part in microbatches(lengths, token_budget=token_budget):
        segments = None if segment_ids is None else [segment_ids[index] for index in part]
        yield part, pack([token_ids[index] for index in part], segments=segments)


def in_order(
    token_ids: Sequence[Ids], segment_ids: Sequence[Ids] | None, compute: Callable[[Packed], Iterable[V]]
) -> list[V]:
    """`compute`'s results, one per sequence, in the order of the sequences.

    `compute` maps a packed batch of B sequences to B results, such as the rows of a tensor `[B, ...]`.
    """
    results: dict[int, V] = {}
    for part, packed in packed_batches(token_ids, segment_ids):
        results.update(zip(part.tolist(), compute(packed), strict=True))
    return [results[number] for number in range(len(token_ids))]


def windows(items: Iterable[V], size: int = WINDOW) -> Iterator[list[V]]:
    """Cut any stream into lists of at most `size`, as it comes."""
    stream = iter(items)
    while window := list(islice(stream, size)):
        yield window
