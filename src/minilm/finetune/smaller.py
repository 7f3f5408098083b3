"""A smaller encoder that is trained instead of the model that a recipe names.

In: the student section of a recipe, the model's configuration and weights. Out: the encoder before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from minilm.errors import UsageError
from minilm.finetune.start import with_fresh_head
from minilm.finetune.task import Task
from minilm.model.config import COUNTED, EncoderConfig, with_vocabulary_of
from minilm.model.encoder import Encoder
from minilm.model.heads import Model
from minilm.model.inherited import inherit_layers
from minilm.randomness import derived_seed
from minilm.recipe import StudentSection
from minilm.recipe.student_shape import TeacherSizes, copied_layers, student_shape


@dataclass(frozen=True, kw_only=True)
class Smaller:
    """The configuration of an encoder, and the layers of the model (counted from 1) that it starts as, if any."""

    config: EncoderConfig
    layers: tuple[int, ...]

    @property
    def start(self) -> str:
        """Where its weights start."""
        return f"starts as layers {', '.join(map(str, self.layers))}" if self.layers else "starts at random"


def smaller_of(section: StudentSection, model: EncoderConfig, *, where: str) -> Smaller:
    """Plan a smaller encoder from the configuration of a model.

    Raises:
        UsageError: the sizes do not fit each other or the model, or its family is not supported.
    """
    if model.family not in COUNTED:
        raise UsageError(f"student: {where} is a {model.family} model; expected one of {', '.join(COUNTED)}")
    sizes = TeacherSizes(
        num_layers=model.num_layers,
        layer=model.num_layers,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_heads=model.num_heads,
        query_width=model.hidden_size,
        key_width=model.hidden_size,
        max_tokens=model.max_tokens,
        num_parameters=model.num_parameters(),
        vocab_size=model.vocab_size,
    )
    config = with_vocabulary_of(student_shape(section, sizes), model)
    return Smaller(config=config, layers=copied_layers(section, config.num_layers, sizes))


def make_smaller(plan: Smaller, model: Model, task: Task, *, seed: int) -> Model:
    """The encoder of `plan`; with the head of `model` if that fits its width, else with a new one."""
    encoder = Encoder(plan.config, pooler=model.encoder.pooler is not None)
    encoder.reset(torch.Generator().manual_seed(derived_seed(seed, "student")))
    if plan.layers:
        inherit_layers(encoder, model.encoder, plan.layers)
    if task.head is None or plan.config.hidden_size == model.encoder.config.hidden_size:
        return Model(encoder, model.head).train()
    return with_fresh_head(encoder, task, seed=derived_seed(seed, "head"))
