"""The numbers that a loss learns: scores, and labels of a regression.

In: a number of a row. Out: the same number, if losses can be computed with it in float32.
"""

from __future__ import annotations

_LARGEST = 1e15  # squares of differences, and the sum of all in a batch, are numbers in float32


def trainable(number: float) -> float:
    """The number; raises ValueError if it is too large."""
    if abs(number) > _LARGEST:
        raise ValueError(f"found {number:g}, expected {-_LARGEST:g} to {_LARGEST:g} to train in single precision")
    return number
