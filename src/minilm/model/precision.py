"""The precisions of models and of the vectors they give.

In: a precision, or a device. Out: the torch dtype, whether the device has it; torch is imported only then.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

FloatPrecision = Literal["fp32", "bf16"]
"""What a model can be trained in, and what the torch engine computes."""

Precision = Literal["fp32", "bf16", "int8"]
"""What a model can be loaded in; int8 is of folders that `minilm quantize` wrote."""

VectorPrecision = Literal["fp32", "fp16", "int8", "binary"]
"""What a text's vector can be stored in."""


def torch_dtype(precision: FloatPrecision) -> torch.dtype:
    """The torch dtype of a precision."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_bf16(device: str = "cpu") -> bool:
    """Whether a device, `cpu` or `cuda`, computes in bfloat16; torch emulates it elsewhere, which is slow."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    import torch

    if platform.machine() in ("x86_64", "AMD64"):  # oneDNN says yes to all of AVX-512, and emulates it on most of that
        return bool(torch.cpu._is_avx512_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
