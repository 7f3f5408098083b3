"""Token sequences of natural lengths for benchmarks: English that every Python install carries.

In: a tokenizer and a longest length. Out: token-id arrays, one per sentence or paragraph.
"""

from __future__ import annotations

import re
from pydoc_data.topics import topics

import numpy as np


def sentences() -> list[str]:
    """Sentences of Python's own reference manual, in a fixed random order."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    found = [
        sentence
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.!?]) +", paragraph)
        if len(sentence.split()) >= 6
    ]
    return [found[index] for index in np.random.default_rng(0).permutation(len(found))]


def random_tokens(lengths: np.ndarray, vocab_size: int, seed: int = 0) -> list[np.ndarray]:
    """Arrays of random ids with the given lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1000, vocab_size, size=int(length)) for length in lengths]


def natural_lengths(count: int, *, longest: int, seed: int = 0) -> np.ndarray:
    """`count` document lengths as text has them: log-normal around 0.4 of `longest`, cut at `longest`."""
    drawn = np.random.default_rng(seed).lognormal(np.log(0.36 * longest), 0.75, size=count)
    return np.clip(drawn.astype(int), 8, longest)
