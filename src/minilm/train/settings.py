"""Convert a recipe's optimization section to the settings of the loop.

In: the section, and the values that only the run knows, such as its number of steps. Out: `TrainSettings`.
"""

from __future__ import annotations

import logging

from minilm.recipe import OptimizationSection
from minilm.train.best import BestRule
from minilm.train.loop import TrainSettings
from minilm.train.optim import AdamWSettings

logger = logging.getLogger(__name__)

# Settings that may change when a run is resumed: how often something is written.
CADENCE = frozenset({"log_every", "checkpoint_every", "keep_checkpoints", "max_bad_steps"})


def train_settings(
    section: OptimizationSection,
    *,
    steps: int,
    warmup_steps: int,
    eval_every: int,
    seed: int,
    label: str,
    best: BestRule | None = None,
) -> TrainSettings:
    """Combine the recipe's settings with those of the run; log a setting that slows training down."""
    if section.attention_dropout:
        logger.info(
            "train.attention_dropout is %g: fused attention kernels do not support dropout, so training is slower and, "
            "on CPUs, memory grows with the square of the sequence length",
            section.attention_dropout,
        )
    return TrainSettings(
        steps=steps,
        optimizer=AdamWSettings(
            learning_rate=section.learning_rate,
            betas=section.adam_betas,
            eps=section.adam_eps,
            weight_decay=section.weight_decay,
        ),
        warmup_steps=warmup_steps,
        max_grad_norm=section.max_grad_norm,
        precision=section.precision,
        seed=seed,
        log_every=section.log_every,
        eval_every=eval_every,
        checkpoint_every=section.checkpoint_every,
        keep_checkpoints=section.keep_checkpoints,
        max_bad_steps=section.max_bad_steps,
        best=best,
        label=label,
    )
