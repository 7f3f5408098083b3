"""Random generators that depend on nothing but a seed and a purpose.

In: the seed of a run and what the numbers are for, such as ("masking", step, place). Out: generators and seeds; no
global state is read or changed, so resuming has nothing to restore.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a fresh random generator that depends on nothing but the seed and the purpose."""
    return np.random.Generator(bit_generator(seed, *purpose))


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for other libraries that depends on nothing but the seed and the purpose."""
    return int.from_bytes(_digest(seed, *purpose)[:8], "big") >> 1


def _digest(seed: int, *purpose: str | int) -> bytes:
    return hashlib.sha256(json.dumps([seed, *purpose]).encode()).digest()


def bit_generator(seed: int, *purpose: str | int) -> np.random.PCG64:
    """Return the raw stream behind `generator`, which NumPy keeps the same from version to version."""
    return np.random.PCG64(int.from_bytes(_digest(seed, *purpose)[:16], "big"))
