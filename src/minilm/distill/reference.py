"""Reference curves: the losses of a healthy run of a shipped recipe, beside those of a run.

In: the recipe and the metrics of a run, `recipes/distill/curves/NAME.json`. Out: the curves to draw behind those of the
run, and a sentence that says whether the run is near them.

Curves are comparable where what decides them is the same: the teacher, the shapes and the start of the students, the
loss, the optimization. Text, seed, hardware and precision may differ: they move a healthy run by less than `NEAR`. So
may the number of steps, up to `MOST_LONGER`: the learning rate follows the share of the run that is done, and curves
are then drawn over that share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from minilm.files.json import read_json
from minilm.files.regular import sha256_text
from minilm.model.metadata import model_checksums
from minilm.recipe import DistillRecipe, curve_path, find_recipe, flat_values, load_recipe
from minilm.recipe.strict_yaml import read_document
from minilm.report.curves import Curve
from minilm.report.page import curve_of
from minilm.train.settings import CADENCE

NEAR = 1.25
"""A loss that is this many times the reference, or less, is near it."""

MOST_LONGER = 2.0
"""A run is comparable whose steps, and those of the reference, differ by at most this factor."""

_SECTIONS = ("teacher.layer", "students.", "loss.", "train.", "data.max_tokens")
_WITHOUT_EFFECT = {f"train.{key}" for key in (*CADENCE, "eval_every", "tokens_per_batch", "precision")}
_NOT_OF_A_RECIPE = ("name", "out", "seed", "data")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A stored run.

    Attributes:
        recipe_sha256: of the shipped recipe that it ran, as `recipe_checksum` gives it.
        teacher: checksums of the teacher's files.
        seed: of the run.
        text: what it read, in words.
        machine: where it ran, in words.
        budget: what it cost.
        loss: of training, by step.
        heldout_loss: by step, of each student in the order of the recipe.
    """

    recipe_sha256: str
    teacher: Mapping[str, str]
    seed: int
    text: str
    machine: str
    budget: Mapping[str, int]
    loss: Points
    heldout_loss: Sequence[Points]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a report shows of the reference: a sentence, and the curves, none where it is not comparable."""

    sentence: str
    curves: Sequence[Curve] = ()


def read_reference(path: Path) -> Reference:
    """A stored reference, which ships with the package."""
    return Reference(**cast("Mapping[str, object]", read_json(path)))  # type: ignore[arg-type]


def recipe_checksum(path: Path) -> str:
    """The checksum of a recipe as written, without its comments and what no curve depends on."""
    values = read_document(path).value
    kept = {key: value for key, value in values.items() if key not in _NOT_OF_A_RECIPE}
    return sha256_text(json.dumps(kept, sort_keys=True))


def differences(recipe: DistillRecipe) -> list[str]:
    """Where a recipe differs from the shipped one of its name in what decides the curve, a few words each."""
    shipped = load_recipe(find_recipe(f"distill/{recipe.name}"), kind=DistillRecipe).recipe
    ours, theirs = (_deciding(flat_values(one)) for one in (recipe, shipped))
    return [
        f"{key} is {_shown(ours.get(key))}, not {_shown(theirs.get(key))}"
        for key in dict.fromkeys((*theirs, *ours))
        if ours.get(key) != theirs.get(key)
    ]


def _deciding(values: Mapping[str, object]) -> dict[str, object]:
    return {
        key: value
        for key, value in values.items()
        if key.startswith(_SECTIONS) and key not in _WITHOUT_EFFECT and not _is_name(key)
    }


def _is_name(key: str) -> bool:
    return key.startswith("students.") and key.endswith(".name")


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)


def compare_with_reference(
    recipe: DistillRecipe, metrics: Sequence[Mapping[str, float]], *, teacher: Path, extended: bool
) -> Compared:
    """How a finished run compares with the stored run of its recipe.

    Args:
        recipe: its recipe.
        metrics: its logged lines.
        teacher: the folder of its teacher.
        extended: whether the run was made longer after its end, which changes its learning rates.
    """
    path = curve_path(recipe.name)
    if path is None:
        return Compared(
            sentence=f"No reference curve is stored for a recipe of the name {recipe.name!r}, so this page cannot say "
            "whether the run is healthy."
        )
    stored = read_reference(path)
    factor = recipe.train.steps / stored.budget["steps"]
    stretches = 1 / MOST_LONGER <= factor <= MOST_LONGER
    differing = differences(_with_steps(recipe, stored.budget["steps"]) if stretches else recipe)
    if stored.teacher != model_checksums(teacher):
        differing.insert(0, "the teacher has other weights")
    if extended:
        differing.append("the run was extended")
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return Compared(
            sentence=f"Not comparable with the reference curve of {recipe.name}: {'; '.join(differing[:3])}{more}."
        )
    names = [student.name for student in recipe.students]
    stored = _stretched(stored, recipe.train.steps)
    known = {"loss": stored.loss}
    known |= {f"{name}.heldout_loss": points for name, points in zip(names, stored.heldout_loss, strict=True)}
    curves = [replace(curve_of(f"reference: {key}", points), reference_for=key) for key, points in known.items()]
    sentence = _verdict(names, metrics, stored)
    if factor != 1:
        sentence += (
            f" It made {recipe.train.steps:,} steps, the reference {stored.budget['steps']:,}: the reference is drawn "
            "over the share of the run."
        )
    return Compared(sentence=sentence, curves=curves)


def _with_steps(recipe: DistillRecipe, steps: int) -> DistillRecipe:
    return recipe.model_copy(update={"train": replace(recipe.train, steps=steps)})


def _stretched(stored: Reference, steps: int) -> Reference:
    """The reference as if it had made so many steps: each point at the same share of the run."""

    def moved(points: Points) -> Points:
        return [(step * steps / stored.budget["steps"], value) for step, value in points]

    return replace(stored, loss=moved(stored.loss), heldout_loss=[moved(points) for points in stored.heldout_loss])


def _verdict(names: Sequence[str], metrics: Sequence[Mapping[str, float]], stored: Reference) -> str:
    """Near, above or below, by the last held-out loss of the student that is furthest above; else by the last loss."""
    pairs = [
        (f"held-out loss of {name}", found, known)
        for name, points in zip(names, stored.heldout_loss, strict=True)
        if (both := _last_common(metrics, f"{name}.heldout_loss", points)) is not None
        for found, known in [both]
    ]
    if not pairs and (both := _last_common(metrics, "loss", stored.loss)) is not None:
        pairs = [("training loss", *both)]
    where = f"a run on {stored.text}, seed {stored.seed}"
    if not pairs:
        return f"Not comparable with the reference curve, {where}: this run has no finite loss at a step that it has."
    name, found, known = max(pairs, key=lambda pair: pair[1] / pair[2])
    ratio = found / known
    verdict = "above" if ratio > NEAR else "below" if ratio < 1 / NEAR else "near"
    advice = {
        "above": ": it learns less than a healthy run, or its text is harder",
        "below": ": it learns more than that run, or its text is easier",
        "near": ": it is healthy",
    }
    return (
        f"This run is {verdict} the reference curve{advice[verdict]}. Its {name} at the end is {found:.4g}, "
        f"{ratio:.2f} times that of the reference, {where}; up to {NEAR} times is near."
    )


def _last_common(metrics: Sequence[Mapping[str, float]], key: str, points: Points) -> tuple[float, float] | None:
    """The last finite value of a number and the reference's at the same step, which is positive."""
    known = {step: value for step, value in points if value > 0}
    both = [(row[key], known[row["step"]]) for row in metrics if row.get(key) is not None and row["step"] in known]
    return both[-1] if both else None
