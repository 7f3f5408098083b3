"""Sums in one order, so that the same numbers in the same order give the same bits on every device.

In: a vector. Out: its sum, on its device.

Training sums the parts of a step with it, the relation kernel the sequences of a batch; no room is above both.
"""

from __future__ import annotations

from torch import Tensor


def ordered_sum(values: Tensor) -> Tensor:
    """The sum of a vector in float64, from the first number to the last; nothing waits for a GPU.

    On GPUs torch adds the numbers of one vector in parallel, also in `cumsum`; each of several columns it adds one by
    one. So there are two.
    """
    return values.double()[:, None].expand(-1, 2).cumsum(0)[-1, 0]
