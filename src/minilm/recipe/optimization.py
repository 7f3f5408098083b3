"""How a run is optimized and how often it is saved: one group of settings for recipes and the training loop.

In: values from a recipe or from Python. Out: `OptimizationSettings`, checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, MaxLen, MinLen

from minilm.files.checked import Count, PositiveInt, Settings, Share
from minilm.model.precision import FloatPrecision


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings(Settings):
    """AdamW with gradient clipping, and the rhythm of a run, in steps.

    Attributes:
        learning_rate: the peak.
        adam_betas: decay rates of the two moments.
        adam_eps: added to the root of the second moment.
        weight_decay: decoupled; none on biases and LayerNorm.
        max_grad_norm: gradients are clipped to this norm; 0 for no clipping.
        precision: of the forward pass; weights stay in float32.
        log_every: steps between two lines of metrics.
        eval_every: steps between two evaluations; 0: only at the end, or once an epoch where there are epochs.
        checkpoint_every: steps between two checkpoints.
        keep_checkpoints: how many of the newest are kept.
        max_bad_steps: steps without a finite loss that a run survives.
        tensorboard: also write the lines of metrics as event files of TensorBoard.
    """

    learning_rate: Annotated[float, Gt(0)]
    adam_betas: Annotated[Sequence[Share], MinLen(2), MaxLen(2)] = (0.9, 0.999)
    adam_eps: Annotated[float, Gt(0)] = 1e-6
    weight_decay: Annotated[float, Ge(0)] = 0.01
    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    precision: FloatPrecision = "fp32"
    log_every: PositiveInt = 10
    eval_every: Count = 0
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    max_bad_steps: Count = 10
    tensorboard: bool = False
