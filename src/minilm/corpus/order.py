"""The documents of each step, as pure functions, so that there is no state to restore on resume.

In: the number of documents, the global batch size, a seed and a step. Out: document indices.
Independent of files, processes and devices; the number of processes never changes a global batch.
Uses only bit-generator streams and a stable sort, which NumPy keeps stable across versions.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from minilm.errors import UsageError
from minilm.randomness import bit_generator

Int64s = npt.NDArray[np.int64]


def step_documents(*, num_documents: int, batch_size: int, seed: int, step: int, reshuffle: bool = True) -> Int64s:
    """Return the document indices of the global batch of one optimizer step.

    Position p = step * batch_size + i is in epoch p // num_documents, and each epoch is an independent random
    permutation of all documents: every document occurs exactly once per epoch, and a batch may span two epochs.
    Without `reshuffle`, all epochs have the order of the first.

    Returns:
        int64 [batch_size], values in [0, num_documents).
    """
    _require_at_least("num_documents", num_documents, 1)
    _require_at_least("batch_size", batch_size, 1)
    _require_at_least("step", step, 0)
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs, offsets = np.divmod(positions, num_documents)
    documents = np.empty(batch_size, dtype=np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        documents[here] = _permutation(num_documents, seed, epoch if reshuffle else 0)[offsets[here]]
    return documents


def rank_share(documents: Int64s, *, rank: int, world_size: int) -> Int64s:
    """Return the documents of one process: every world_size-th, starting at `rank`.

    Raises:
        UsageError: the batch cannot be shared evenly; the message lists the valid numbers of processes.
    """
    _require_at_least("world_size", world_size, 1)
    if not 0 <= rank < world_size:
        raise UsageError(f"rank is {rank}; expected 0 to {world_size - 1} among {world_size} processes")
    size = len(documents)
    if size % world_size:
        valid = ", ".join(str(count) for count in range(1, size + 1) if size % count == 0)
        raise UsageError(
            f"a batch of {size} documents cannot be shared evenly by {world_size} processes; "
            f"use one of {valid} processes, or another train.batch_size"
        )
    return documents[rank::world_size]


@lru_cache(maxsize=2)  # a batch spans two epochs at most, unless the corpus is smaller than a batch
def _permutation(num_documents: int, seed: int, epoch: int) -> Int64s:
    keys = bit_generator(seed, "epoch", epoch).random_raw(num_documents)
    order = np.argsort(keys, kind="stable").astype(np.int64, copy=False)
    order.setflags(write=False)
    return order


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} is {value}; expected at least {least}")
