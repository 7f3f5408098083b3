"""Token sequences of natural lengths for benchmarks: English that every Python install carries.

In: a tokenizer and a longest length. Out: token-id arrays, one per sentence or paragraph.
"""

from __future__ import annotations

from pydoc_data.topics import topics

import numpy as np


def paragraphs() -> list[str]:
    """Paragraphs of Python's own reference manual (mean about 60 tokens), in a fixed random order."""
    unique = dict.fromkeys(" ".join(part.split()) for name in sorted(topics) for part in topics[name].split("\n\n"))
    found = [text for text in unique if len(text.split()) >= 12]
    return [found[index] for index in np.random.default_rng(0).permutation(len(found))]


def random_tokens(lengths: np.ndarray, vocab_size: int, seed: int = 0) -> list[np.ndarray]:
    """Arrays of random ids with the given lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1000, vocab_size, size=int(length)) for length in lengths]


def natural_lengths(count: int, *, longest: int, seed: int = 0) -> np.ndarray:
    """`count` document lengths as text has them: log-normal around 0.4 of `longest`, cut at `longest`."""
    drawn = np.random.default_rng(seed).lognormal(np.log(0.36 * longest), 0.75, size=count)
    return np.clip(drawn.astype(int), 8, longest)
