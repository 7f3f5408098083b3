"""Frozen linear maps for CPUs, with weights prepacked for the oneDNN kernels.

In: a module in evaluation mode whose linear maps no longer change.
Out: the same module, with each map replaced by one with prepacked weights.

Faster than `torch.nn.Linear` (measured in fp32 and bf16 on a 2-core AVX-512 machine), with equal results up to
rounding. A subsequent GELU is fused on processors with AVX-512; with AVX2, oneDNN's GELU is several times slower than
torch's. On accelerators and in builds without oneDNN, modules are unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minilm.model.encoder import ACTIVATIONS_INSIDE, ActivatedLinear
from minilm.model.precision import has_bf16

# Number of rows for which the kernels choose a layout; any number of rows works.
_TYPICAL_ROWS = 2048
_FUSES_GELU = "AVX512" in torch.backends.cpu.get_cpu_capability()


class PrepackedLinear(nn.Module):
    """A frozen linear map, optionally followed by an activation: `[..., in]` -> `[..., out]`."""

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weight of `linear`; the bias is shared."""
        super().__init__()
        self.out_features = linear.out_features
        self.activation = linear.activation if isinstance(linear, ActivatedLinear) else None
        self.fused = "gelu" if self.activation == "gelu" and _FUSES_GELU else "none"
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), _TYPICAL_ROWS)

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the map."""
        flat = rows.reshape(-1, rows.shape[-1])
        mapped: Tensor = torch.ops.mkldnn._linear_pointwise(flat, self.weight, self.bias, self.fused, [], "none")
        if self.activation == "gelu" and self.fused == "none":
            torch.ops.aten.gelu_(mapped)
        elif self.activation is not None and self.fused == "none":
            mapped = ACTIVATIONS_INSIDE[self.activation](mapped)
        return mapped.view(*rows.shape[:-1], self.out_features)


def prepack(module: nn.Module) -> None:
    """Replace every linear map below `module`, if the build and the device have the kernels."""
    if not torch.backends.mkldnn.is_available():
        return
    dtypes = (torch.float32, torch.bfloat16) if has_bf16() else (torch.float32,)
    for name, child in module.named_children():
        if type(child) in (nn.Linear, ActivatedLinear):
            if child.weight.device.type == "cpu" and child.weight.dtype in dtypes:
                setattr(module, name, PrepackedLinear(child))  # type: ignore[arg-type]
        else:
            prepack(child)
