"""What a distillation needs from a probe, which fine-tunes copies of its students; `finetune/probe.py` is one.

In: the probe of a recipe, students. Out: the function that the training loop calls after each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from minilm.distill.plan import DistillPlan
from minilm.errors import UsageError
from minilm.model.encoder import Encoder
from minilm.recipe import DistillRecipe, ProbeSection
from minilm.text.tokenizer import Tokenizer


class Probe(Protocol):
    """A small task with its data read."""

    @property
    def description(self) -> str:
        """What it will do, in words."""

    def score(self, student: Encoder) -> Mapping[str, float]:
        """Scores of a copy of the student, by metric; the student and all random streams stay as they are."""


class MakeProbe(Protocol):
    """Reads the data of a probe; raises UsageError or DataError if that cannot be used."""

    def __call__(self, section: ProbeSection, tokenizer: Tokenizer, *, seed: int, max_tokens: int) -> Probe:
        """The probe for students with this tokenizer, which have positions for `max_tokens`."""


def probe_key(student: str, section: ProbeSection, metric: str) -> str:
    """The name of a score in `metrics.jsonl`."""
    return f"{student}.{section.task}.{metric}"


def probe_of(recipe: DistillRecipe, plan: DistillPlan, make: MakeProbe | None) -> Probe | None:
    """The probe of a recipe; None if it has none.

    Raises:
        UsageError: the caller cannot run probes, the task is not one of GLUE, or there is no such file.
        DataError: a file is damaged.
    """
    if recipe.probe is None:
        return None
    if make is None:
        raise UsageError("probe: run this recipe with minilm distill or minilm.run, or set probe to null")
    max_tokens = min(config.max_tokens for config in plan.configs.values())
    return make(recipe.probe, plan.tokenizer, seed=recipe.seed, max_tokens=max_tokens)


def scores_due(
    recipe: DistillRecipe, probe: Probe | None, students: Mapping[str, Encoder]
) -> Callable[[int], dict[str, float]]:
    """A function of the steps done that gives the scores of all students where they are due, else nothing."""
    section, steps = recipe.probe, recipe.train.steps

    def scores(step: int) -> dict[str, float]:
        if section is None or probe is None or (step % section.every and step < steps):
            return {}
        return {
            probe_key(name, section, metric): value
            for name, student in students.items()
            for metric, value in probe.score(student).items()
        }

    return scores
