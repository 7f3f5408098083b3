"""Counts what the host waits for on a GPU: numbers that it reads, and tensors whose size depends on numbers."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.nonzero.default,
}


class HostReads(TorchDispatchMode):
    """Counts them in the block, on any device."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        chooses = function is torch.ops.aten.index.Tensor and any(
            one is not None and one.dtype == torch.bool for one in arguments[1]
        )
        self.count += chooses or function in WAITING
        return function(*arguments, **(named or {}))
