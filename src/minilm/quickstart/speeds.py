"""Speeds of several models, measured in turn in one process.

In: named functions, each of which encodes the same texts once. Out: texts per second of each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

_ROUNDS = 3


def texts_per_second(sides: Mapping[str, Callable[[], object]], *, num_texts: int) -> dict[str, float]:
    """Call all sides, one after another, in each of several rounds (A B A B); the median of the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, encode in sides.items():
            started = time.perf_counter()
            encode()
            seconds[name].append(time.perf_counter() - started)
    return {name: num_texts / statistics.median(found) for name, found in seconds.items()}
