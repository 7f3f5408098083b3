"""The floating-point precisions of models.

In: `fp32` or `bf16`. Out: the torch dtype; torch is imported only then.
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
