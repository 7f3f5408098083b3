"""Convert a recipe's optimization section to the settings of the loop.

In: the section, and the values that only the run knows, such as its number of steps. Out: `TrainSettings`.
"""

from __future__ import annotations

import logging
from dataclasses import fields

from minilm.recipe import OptimizationSettings, TrainingSection
from minilm.train.best import BestRule
from minilm.train.loop import TrainSettings

logger = logging.getLogger(__name__)

# Settings that may change when a run is resumed: how often something is written.
CADENCE = frozenset({"log_every", "checkpoint_every", "keep_checkpoints", "max_bad_steps", "tensorboard"})


def train_settings(
    section: TrainingSection,
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
    shared = {field.name: getattr(section, field.name) for field in fields(OptimizationSettings)}
    shared["eval_every"] = eval_every
    return TrainSettings(**shared, steps=steps, warmup_steps=warmup_steps, seed=seed, label=label, best=best)
