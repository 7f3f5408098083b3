"""The ids of a stream of rows: which of them occurred before, in 8 bytes each.

In: the ids of chunk after chunk. Out: those with the hash of an earlier one, which is almost always the same id.

Hashes are in sorted runs; a new run takes in those before it that are not longer, so there are few runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class SeenIds:
    """The hashes of all ids so far."""

    def __init__(self) -> None:
        """Begin without any."""
        self._runs: list[NDArray[np.int64]] = []

    def add(self, ids: Sequence[str]) -> list[int]:
        """Add different ids; return the indices of those whose hash was added by an earlier call."""
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        found = np.zeros(len(ids), dtype=bool)
        for run in self._runs:
            found |= run[np.searchsorted(run, hashes).clip(max=len(run) - 1)] == hashes
        merged = np.sort(hashes)
        while self._runs and len(self._runs[-1]) <= len(merged):
            merged = np.sort(np.concatenate([self._runs.pop(), merged]), kind="stable")
        if len(merged):
            self._runs.append(merged)
        seen: list[int] = np.flatnonzero(found).tolist()
        return seen
