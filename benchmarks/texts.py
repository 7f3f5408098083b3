"""Token sequences of natural lengths for benchmarks: English that ships with every Python installation.

In: a tokenizer and a max length. Out: token-id arrays, one per text.
"""

from __future__ import annotations

import numpy as np


def documents() -> list[str]:
    """Whole docstrings of Python's standard library, as they were written, in a fixed random order."""
    from minilm.text.installed import docstrings

    found = list(dict.fromkeys(text for _, text in docstrings() if len(text.split()) >= 8))
    return [found[index] for index in np.random.default_rng(0).permutation(len(found))]


def median_batch(sequences: list[np.ndarray], *, size: int, batches: int = 100) -> list[np.ndarray]:
    """Of the first `batches` batches, the middle one by longest sequence, then by number of tokens."""
    cut = [sequences[size * index : size * (index + 1)] for index in range(batches)]
    return sorted(cut, key=lambda batch: (max(map(len, batch)), sum(map(len, batch))))[batches // 2]


def real_share(batch: list[np.ndarray]) -> float:
    """Tokens over tokens plus padding, when all are padded to the longest."""
    return sum(map(len, batch)) / (len(batch) * max(map(len, batch)))
