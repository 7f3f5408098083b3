"""Group sequences into batches by a token budget.

In: the lengths of sequences. Out: groups of similar length, because the cost of a batch is that of its tokens.
Does not need torch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from minilm.errors import UsageError

Int64s = npt.NDArray[np.int64]


def microbatches(lengths: npt.NDArray[np.integer], *, token_budget: int) -> list[Int64s]:
    """Split documents into groups of similar length that each fit the token budget.

    Args:
        lengths: tokens per document [n].
        token_budget: max tokens per group; a longer document forms its own group.

    Returns:
        Index arrays (int64) into `lengths`, shortest documents first, that together contain every index once.
    """
    if token_budget < 1:
        raise UsageError(f"token_budget is {token_budget}; expected at least 1")
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64)[order])
    groups: list[Int64s] = []
    start = 0
    while start < len(order):
        used = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, used + token_budget, side="right"))
        stop = max(stop, start + 1)
        groups.append(order[start:stop])
        start = stop
    return groups
