"""What the loop takes from a recipe: the settings of its optimization, and the values that identify a run.

In: a recipe or its optimization section, and the values that only the run knows, such as its number of steps. Out:
`TrainSettings`; values by dotted key.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import fields

from minilm.recipe import OptimizationSettings, RunRecipe, TrainingSection, flat_values, input_names
from minilm.train.best import BestRule
from minilm.train.loop import TrainSettings

logger = logging.getLogger(__name__)

CADENCE = ("log_every", "checkpoint_every", "keep_checkpoints", "max_bad_steps", "tensorboard")
"""Keys of the optimization that say how often something is written."""


def identity_values(recipe: RunRecipe, *, but: Collection[str], but_section: str) -> dict[str, object]:
    """The values of a recipe that may not change when its run is resumed.

    Names may change, and how often something is written; what is read is compared by its contents.

    Args:
        recipe: the recipe.
        but: other keys that may change.
        but_section: a section of which all may change.
    """
    free = {"name", "out", *but, *input_names(recipe), *(f"train.{key}" for key in CADENCE)}
    return {
        key: value
        for key, value in flat_values(recipe).items()
        if key not in free and key.partition(".")[0] != but_section
    }


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
