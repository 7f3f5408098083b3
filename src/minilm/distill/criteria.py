"""The criterion of a recipe, with its teacher.

In: a recipe and its plan, students. Out: the teacher that the loss needs, if any, and the `Criterion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from minilm.distill.criterion import Criterion, RelationCriterion, RelationTeacher
from minilm.distill.hidden_states import HiddenCriterion
from minilm.distill.masked_language import LanguageTeacher, MaskedLanguageCriterion, load_language_teacher
from minilm.distill.masking import Masking
from minilm.distill.plan import DistillPlan
from minilm.distill.relation_loss import V1_PAIRS, V2_PAIRS, Pair
from minilm.distill.student import make_head
from minilm.distill.teacher import load_teacher
from minilm.distill.teacher_base import Teacher, Wanted
from minilm.model.encoder import Encoder
from minilm.model.precision import torch_dtype
from minilm.recipe import DistillRecipe, LossSection


def load_teacher_for(recipe: DistillRecipe, plan: DistillPlan, device: str) -> Teacher | None:
    """The teacher, as the loss needs it; None if that needs none.

    Raises:
        DataError, UsageError, SystemProblem: as for `load_teacher`.
    """
    loss, precision = recipe.loss, torch_dtype(recipe.train.precision)
    if not loss.has_teacher:
        return None
    if loss.objective == "mlm":
        return load_language_teacher(plan.teacher, plan.sizes, precision=precision, device=device)
    return load_teacher(
        plan.teacher,
        layer=plan.sizes.layer,
        version=loss.layer_rule,
        precision=precision,
        device=device,
        wanted=Wanted(layers=plan.teacher_layers, attention=loss.compares_attention, hidden=loss.objective == "hidden"),
    )


def make_criterion(
    recipe: DistillRecipe,
    plan: DistillPlan,
    teacher: RelationTeacher | None,
    students: Mapping[str, Encoder],
) -> Criterion:
    """What the students of a recipe learn; `teacher` is as `load_teacher_for` gives it, students are on their device.

    Raises:
        DataError: a model that a student continues is damaged.
    """
    loss = recipe.loss
    if loss.objective == "mlm":
        masking = masking_of(recipe, plan)
        assert masking is not None
        heads = {name: make_head(plan.students[name], seed=recipe.seed) for name in students}
        return MaskedLanguageCriterion(
            students,
            {name: head.to(students[name].embeddings.position.weight.device) for name, head in heads.items()},
            masking=masking,
            normalization=loss.normalization,
            teacher=teacher if isinstance(teacher, LanguageTeacher) else None,
        )
    assert teacher is not None, "only masked language models train without a teacher"
    if loss.objective == "hidden":
        assert isinstance(teacher, Teacher)
        return HiddenCriterion(
            teacher,
            students,
            layers=plan.layers,
            width=plan.sizes.hidden_size,
            normalization=loss.normalization,
            seed=recipe.seed,
        )
    return RelationCriterion(
        teacher=teacher,
        students=students,
        layers=plan.layers,
        pairs=pair_weights(loss),
        num_relation_heads=plan.relation_heads,
        normalization=loss.normalization,
    )


def pair_weights(loss: LossSection) -> dict[Pair, float]:
    """The pairs of projections that a loss relates, with their weights."""
    if loss.pairs is None:
        return dict.fromkeys(V1_PAIRS if loss.version == "v1" else V2_PAIRS, 1.0)
    return {cast("Pair", tuple(pair.split("-"))): weight for pair, weight in loss.pairs.items()}


def masking_of(recipe: DistillRecipe, plan: DistillPlan) -> Masking | None:
    """How the text of a recipe is masked, if it is."""
    share = recipe.loss.masked_share
    return None if share is None else Masking.of(plan.tokenizer, share, seed=recipe.seed)
