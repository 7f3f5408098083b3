"""Random generators that depend only on a seed and a purpose.

In: the seed of a run and the purpose of the numbers, such as ("masking", step, index). Out: generators and seeds.
Global state is neither read nor changed, so a resumed run has no generator state to restore.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a fresh random generator that depends only on the seed and the purpose."""
    return np.random.Generator(bit_generator(seed, *purpose))


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for other libraries that depends only on the seed and the purpose."""
    return int.from_bytes(_digest(seed, *purpose)[:8], "big") >> 1


def _digest(seed: int, *purpose: str | int) -> bytes:
    return hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()


def bit_generator(seed: int, *purpose: str | int) -> np.random.PCG64:
    """Return the bit generator behind `generator`, whose stream NumPy keeps stable across versions."""
    return np.random.PCG64(int.from_bytes(_digest(seed, *purpose)[:16], "big"))
