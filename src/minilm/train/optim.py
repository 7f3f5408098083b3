"""AdamW with BERT's weight decay rule: none on biases (also those of relative positions) and LayerNorm.

In: named parameters and the recipe's settings. Out: a torch optimizer whose state maps to named tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minilm.errors import DataError
from minilm.recipe.optimization import OptimizationSettings


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to the parameter called `name`."""
    return not (name.endswith("bias") or "norm." in name or "relative." in name)


def make_optimizer(parameters: Mapping[str, nn.Parameter], settings: OptimizationSettings) -> torch.optim.AdamW:
    """A fused AdamW over `parameters` in two groups: with and without weight decay."""
    groups = [
        {
            "params": [p for name, p in parameters.items() if is_decayed(name) is decayed],
            "weight_decay": decay,
        }
        for decayed, decay in ((True, settings.weight_decay), (False, 0.0))
    ]
    first, second = settings.adam_betas
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(first, second), eps=settings.adam_eps, fused=True
    )


def optimizer_tensors(optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state as `name/part` tensors; empty before the first update."""
    return {
        f"{name}/{part}": value
        for name, parameter in parameters.items()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Restore the output of `optimizer_tensors`, bit for bit.

    Raises:
        DataError: a tensor does not belong to any parameter.
    """
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        if name not in parameters:
            raise DataError(f"the checkpoint contains optimizer state of {name!r}, which the model does not have")
        parameter = parameters[name]
        optimizer.state[parameter][part] = tensor.to(parameter.device)  # "step" too: fused kernels require it
