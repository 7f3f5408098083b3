"""The floating-point precisions of models.

In: `fp32` or `bf16`, or a device. Out: the torch dtype, whether the device has it; torch is imported only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]


def torch_dtype(precision: Precision) -> torch.dtype:
    """The torch dtype of a precision."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_bf16(device: str = "cpu") -> bool:
    """Whether a device, `cpu` or `cuda`, computes in bfloat16; torch emulates it elsewhere, which is slow."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
