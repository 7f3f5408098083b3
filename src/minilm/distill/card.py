"""The model card of a student: what it is, how it was made, and what to know before it is used.

In: a recipe and its plan. Out: Markdown, by `report/card.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minilm.distill.plan import DistillPlan, described_loss
from minilm.hub import base_name
from minilm.recipe import DistillRecipe
from minilm.report.card import model_card


def student_card(
    recipe: DistillRecipe, plan: DistillPlan, name: str, *, lineage: Sequence[str], extended_at: Sequence[int]
) -> str:
    """The card of the student called `name`.

    Args:
        recipe: of its run.
        plan: of that recipe.
        name: the student.
        lineage: the names of its teacher, of the teacher of that, and so on; empty: that of the recipe.
        extended_at: the steps after which the run was made longer.
    """
    config, points = plan.configs[name], ", ".join(map(str, extended_at))
    steps = f"{recipe.train.steps} steps{f' (extended at step {points})' if points else ''}"
    teachers = list(lineage) or [base_name(recipe.teacher.model)]
    before = "".join(f", itself distilled from `{Path(teacher).name}`" for teacher in teachers[1:])
    made = (
        f"{config.num_layers} layers, width {config.hidden_size}, {config.num_parameters():,} parameters. "
        f"{_how(recipe, plan, Path(teachers[0]).name)}{before and f'{before},'} for {steps} of "
        f"{recipe.train.batch_size} documents. It {plan.students[name].start}. "
        f"Loss {described_loss(recipe.loss, plan)}."
    )
    is_distilled = recipe.loss.has_teacher
    return model_card(
        name,
        kind="embed",
        base=base_name(teachers[-1]),
        tags=["distillation" if is_distilled else "fill-mask"],
        pairs=False,
        sections=[made, _advice(recipe)],
    )


def _how(recipe: DistillRecipe, plan: DistillPlan, teacher: str) -> str:
    loss, layers = recipe.loss, ", ".join(map(str, plan.teacher_layers))
    where = f"`{teacher}` (layer{'s' * (len(plan.teacher_layers) > 1)} {layers})"
    if loss.objective == "relations":
        return f"Distilled with MiniLM{loss.version} from {where}"
    if loss.objective == "hidden":
        return f"Distilled from the hidden states of {where}"
    if loss.labels == "soft":
        return f"Trained as a masked language model on the distribution of `{teacher}`"
    return f"Trained as a masked language model with the tokenizer of `{teacher}`"


def _advice(recipe: DistillRecipe) -> str:
    if recipe.loss.objective == "relations":
        return (
            "The last layer's output projection and feed-forward are not trained by this objective; fine-tune before "
            "use."
        )
    trained = "All layers are trained by this objective, the pooler is not; fine-tune before use."
    return trained if recipe.loss.objective == "hidden" else f"{trained} The head for masked tokens is in the folder."
