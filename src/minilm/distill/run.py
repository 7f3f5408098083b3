"""A distillation run, from recipe to run folder.

In: a loaded recipe. Out: a folder with `recipe.resolved.yaml`, `env.json`, `log.txt`, `metrics.jsonl`,
`checkpoints/`, `report.html` and the student as a Hugging Face folder, `model/` (`model/NAME/` when several).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from minilm.corpus.build import build_shards
from minilm.corpus.shards import Shards
from minilm.distill.objective import DistillObjective, RelationSettings
from minilm.distill.plan import DistillPlan, open_corpus, plan_distillation
from minilm.distill.relation_kernel import loss_implementation
from minilm.distill.relation_loss import V1_PAIRS, V2_PAIRS
from minilm.distill.report import report_distillation
from minilm.distill.shapes import relation_heads
from minilm.distill.student import make_student, save_student
from minilm.distill.teacher import load_teacher, tokenizer_folder
from minilm.distill.teacher_base import Teacher
from minilm.embedded import model_path
from minilm.errors import DataError
from minilm.files.atomic import atomic_folder, atomic_write
from minilm.files.json import read_json, write_json
from minilm.files.regular import sha256_file
from minilm.hub import base_name
from minilm.model.encoder import Encoder
from minilm.model.metadata import model_checksums
from minilm.model.precision import torch_dtype
from minilm.recipe import DistillRecipe, Loaded, flat_values, resolved_yaml
from minilm.report.card import model_card
from minilm.train.distributed import ALONE, Ranks, first_before_others, process_group, wait_for_first
from minilm.train.folder import RECIPE, remove_results, run_folder
from minilm.train.loop import train
from minilm.train.settings import CADENCE, train_settings
from minilm.train.state import Identity, extensions, require_run

logger = logging.getLogger(__name__)

# Settings that may change when a run is resumed: names, paths and how often something is written.
_NOT_IDENTITY = {
    "name",
    "out",
    "data.corpus",
    "data.inputs",
    "data.workers",
    "data.max_bad_rows",
    "teacher.model",
    "train.eval_every",
    "train.steps",  # compared by itself: a finished run may be made longer
    *(f"train.{key}" for key in CADENCE),
}


@dataclass(frozen=True, kw_only=True)
class DistillResult:
    """The folder and size of each student, by name; all held-out metrics; the corpus."""

    folders: Mapping[str, Path]
    metrics: Mapping[str, float]
    num_parameters: Mapping[str, int]
    shards: Shards


def distill(loaded: Loaded[DistillRecipe], *, resume: Literal["auto", "never"] = "auto") -> DistillResult:
    """Run a recipe to completion; restarted after a kill, it resumes and ends with bit-identical weights.

    Args:
        loaded: the recipe.
        resume: `auto` resumes from the newest complete checkpoint; `never` removes the results of an earlier run
            and starts from the first step.

    Raises:
        UsageError: the run folder belongs to another dataset, tokenizer or recipe; the message lists the differences.
        DataError: corpus, teacher or tokenizer cannot be used.
        SystemProblem: the run folder cannot be written.
        Interrupted: Ctrl-C; the state is saved.
    """
    out = Path(loaded.recipe.out)
    resolved = resolved_yaml(loaded)
    with process_group() as ranks, run_folder(out, recipe=resolved) if ranks.is_first else contextlib.nullcontext():
        wait_for_first(ranks)
        with tokenizer_folder(model_path(loaded.recipe.teacher.model)) as tokenizer:
            plan = plan_distillation(loaded.recipe, tokenizer=tokenizer)
            return _distill(loaded.recipe, plan, resolved, ranks, afresh=resume == "never")


def _distill(recipe: DistillRecipe, plan: DistillPlan, resolved: str, ranks: Ranks, *, afresh: bool) -> DistillResult:
    out = Path(recipe.out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = load_teacher(
        plan.teacher,
        layer=plan.sizes.layer,
        version=recipe.loss.version,
        precision=torch_dtype(recipe.train.precision),
        device=device,
    )
    heads = relation_heads(recipe.loss, teacher.sizes, plan.configs)  # by what it computes, not by its configuration
    plan = replace(plan, sizes=teacher.sizes, relation_heads=heads)
    students = {
        name: make_student(student, teacher=plan.teacher, seed=recipe.seed).to(device)
        for name, student in plan.students.items()
    }
    for student in students.values():
        student.attention_dropout = recipe.train.attention_dropout
    with first_before_others(ranks):
        folder = Path(recipe.data.corpus) if recipe.data.corpus is not None else _build_once(recipe, out, plan)
        shards = open_corpus(recipe, folder, plan, verify=True)
    objective = make_objective(recipe, teacher, students, shards, num_relation_heads=heads, device=device, ranks=ranks)
    loss = loss_implementation(device)
    ways = {"device": device, "relation loss": loss, "teacher.engine": teacher.engine}
    identity = {**_identity(recipe, shards, plan), **ways}
    with first_before_others(ranks):
        if afresh and ranks.is_first:
            remove_results(out)
        require_run(out / "checkpoints", identity, total_steps=recipe.train.steps)
        if ranks.is_first:
            atomic_write(out / RECIPE, resolved)
    logger.info(
        "distilling layer %d of %s into %s; %d documents; relation losses: %s",
        teacher.layer,
        plan.teacher,
        ", ".join(students),
        len(shards),
        loss,
    )
    _say_how_it_runs(teacher, objective, plan.teacher)
    section = recipe.train
    settings = train_settings(
        section,
        steps=section.steps,
        warmup_steps=section.warmup_steps,
        eval_every=section.eval_every,
        seed=recipe.seed,
        label="distill",
    )
    metrics = train(objective, settings, folder=out, identity=identity, ranks=ranks)
    folders = {name: out / "model" if len(students) == 1 else out / "model" / name for name in students}
    if ranks.is_first:
        for name, student in students.items():
            card = _card(recipe, name, student, plan, extensions(out / "checkpoints"))
            save_student(student, folders[name], teacher=plan.teacher, tokenizer=plan.tokenizer, card=card)
        report_distillation(recipe, plan, shards.manifest, metrics)
    wait_for_first(ranks)
    sizes = {name: student.config.num_parameters() for name, student in students.items()}
    return DistillResult(folders=folders, metrics=metrics, num_parameters=sizes, shards=shards)


def _say_how_it_runs(teacher: Teacher, objective: DistillObjective, folder: Path) -> None:
    """What computes the teacher, and how much of that is padding."""
    logger.info("teacher %s: computed by %s", folder, teacher.engine)
    share = teacher.share_of_padding([np.array(part.packed.lengths) for part in objective.batch(0).parts])
    if share:
        logger.warning(
            "teacher %s: it runs padded, which is slower: %.1f%% of the tokens that it computes in the first step are "
            "padding",
            folder,
            100 * share,
        )


def _build_once(recipe: DistillRecipe, out: Path, plan: DistillPlan) -> Path:
    """Shards of the recipe's text files below `out`; rebuilt only if a file or its reading settings changed."""
    inputs = [Path(name) for name in recipe.data.inputs]
    source = {
        "files": [[path.name, sha256_file(path)] for path in inputs],
        "field": recipe.data.field,
        "max_tokens": recipe.data.max_tokens,
        "max_bad_rows": recipe.data.max_bad_rows,
        "tokenizer": plan.tokenizer.fingerprint,
    }
    folder = out / "corpus"
    if _was_built_from(source, folder / "source.json"):
        return folder / "shards"
    with atomic_folder(folder, replace=True) as aside:
        build_shards(
            inputs,
            tokenizer=plan.tokenizer_folder,
            out=aside / "shards",
            max_tokens=recipe.data.max_tokens,
            field=recipe.data.field,
            workers=recipe.data.workers,
            max_bad_rows=recipe.data.max_bad_rows,
        )
        write_json(aside / "source.json", source)
    return folder / "shards"


def _was_built_from(source: Mapping[str, object], record: Path) -> bool:
    try:
        return read_json(record) == source
    except DataError:  # missing or damaged
        return False


def make_objective(
    recipe: DistillRecipe,
    teacher: Teacher,
    students: Mapping[str, Encoder],
    shards: Shards,
    *,
    num_relation_heads: int,
    device: str,
    ranks: Ranks = ALONE,
) -> DistillObjective:
    """The objective of a recipe over `shards`; raises DataError if no document is left to train on."""
    settings = RelationSettings(
        pairs=V1_PAIRS if recipe.loss.version == "v1" else V2_PAIRS,
        num_relation_heads=num_relation_heads,
        normalization=recipe.loss.normalization,
        batch_size=recipe.train.batch_size,
        tokens_per_batch=recipe.train.tokens_per_batch,
        num_heldout=recipe.data.heldout_documents,
        seed=recipe.seed,
        device=device,
    )
    return DistillObjective(teacher, students, shards, settings, ranks)


def _identity(recipe: DistillRecipe, shards: Shards, plan: DistillPlan) -> Identity:
    """Everything that must be equal to resume from a checkpoint; models and data by their contents."""
    values = {key: value for key, value in flat_values(recipe).items() if key not in _NOT_IDENTITY}
    models = {"teacher": plan.teacher}
    for number, student in enumerate(plan.students.values()):
        if student.continued is not None:
            models[f"students.{number}.init"] = student.continued
            del values[f"students.{number}.init"]
    return {
        **values,
        "teacher.layer": plan.sizes.layer,
        **{f"{name} {part}": sha for name, path in models.items() for part, sha in model_checksums(path).items()},
        "tokenizer": shards.manifest.tokenizer,
        "dataset": shards.manifest.fingerprint,
    }


def _card(recipe: DistillRecipe, name: str, student: Encoder, plan: DistillPlan, extended_at: Sequence[int]) -> str:
    config, points = student.config, ", ".join(map(str, extended_at))
    steps = f"{recipe.train.steps} steps{f' (extended at step {points})' if points else ''}"
    made = (
        f"{config.num_layers} layers, width {config.hidden_size}, {config.num_parameters():,} parameters. "
        f"Distilled with MiniLM{recipe.loss.version} from `{Path(recipe.teacher.model).name}` "
        f"(layer {plan.sizes.layer}) for {steps} of {recipe.train.batch_size} documents. "
        f"It {plan.students[name].start}."
    )
    advice = (
        "The last layer's output projection and feed-forward are not trained by this objective; fine-tune before use."
    )
    base = base_name(recipe.teacher.model)
    return model_card(name, use="encode", base=base, tags=["distillation"], pairs=False, sections=[made, advice])
