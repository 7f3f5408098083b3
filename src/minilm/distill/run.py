"""A distillation run, from recipe to run folder.

In: a loaded recipe. Out: a folder with `recipe.resolved.yaml`, `env.json`, `log.txt`, `metrics.jsonl`,
`checkpoints/`, `report.html` and the student as a Hugging Face folder, `model/` (`model/NAME/` when several).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from minilm.corpus.build import build_shards
from minilm.corpus.display import build_display
from minilm.corpus.shards import Shards
from minilm.distill.agreement import summarized
from minilm.distill.cache_filling import Filling
from minilm.distill.card import student_card
from minilm.distill.costs import RUN_PARTS, folder_bytes
from minilm.distill.criteria import load_teacher_for, make_criterion, masking_of
from minilm.distill.criterion import Criterion
from minilm.distill.objective import DistillObjective, ObjectiveSettings
from minilm.distill.plan import DistillPlan, open_corpus, plan_distillation
from minilm.distill.probing import MakeProbe, Probe, probe_of, scores_due
from minilm.distill.relation_kernel import loss_implementation
from minilm.distill.report import report_distillation
from minilm.distill.room import Room, held_bytes
from minilm.distill.shapes import relation_heads
from minilm.distill.student import make_student, save_student
from minilm.distill.teacher import tokenizer_folder
from minilm.distill.teacher_base import Teacher, say_how_it_runs
from minilm.distill.teacher_cache import CachedTeacher, cached_teacher, require_storable
from minilm.embedded import model_path
from minilm.errors import DataError
from minilm.files.atomic import atomic_folder, atomic_write
from minilm.files.json import read_json, write_json
from minilm.files.regular import sha256_file
from minilm.model.encoder import Encoder
from minilm.model.metadata import model_checksums
from minilm.recipe import DataSection, Distillation, DistillRecipe, Loaded, resolved_yaml
from minilm.train.distributed import ALONE, Ranks, first_before_others, process_group, wait_for_first
from minilm.train.folder import RECIPE, STAGES, remove_results, run_folder
from minilm.train.loop import train
from minilm.train.settings import identity_values, train_settings
from minilm.train.state import AnotherRunError, Identity, extensions, is_finished, require_run

logger = logging.getLogger(__name__)

# More that may change when a run is resumed, see `identity_values`.
_NOT_IDENTITY = (
    "data.workers",
    "data.max_bad_rows",
    "cache",  # null; what else decides the stored numbers is compared already
    "cache.max_gib",
    "train.eval_every",
    "train.steps",  # compared by itself: a finished run may be made longer
)


@dataclass(frozen=True, kw_only=True)
class DistillResult:
    """The folder and size of each student, by name; all held-out metrics; the corpus; what identifies the run."""

    folders: Mapping[str, Path]
    metrics: Mapping[str, float]
    num_parameters: Mapping[str, int]
    shards: Shards
    identity: Identity


def distill(
    loaded: Loaded[DistillRecipe],
    *,
    resume: Literal["auto", "never"] = "auto",
    make_probe: MakeProbe | None = None,
) -> DistillResult:
    """Run a recipe to completion; restarted after a kill, it resumes and ends with bit-identical weights.

    Args:
        loaded: the recipe.
        resume: `auto` resumes from the newest complete checkpoint; `never` removes the results of an earlier run
            and starts from the first step.
        make_probe: reads the data of the recipe's probe, if it has one.

    Raises:
        UsageError: the run folder belongs to another dataset, tokenizer or recipe; the message lists the differences.
        DataError: corpus, teacher or tokenizer cannot be used.
        SystemProblem: the run folder cannot be written.
        Interrupted: Ctrl-C; the state is saved.
    """
    with process_group() as ranks:
        return distill_once(loaded, ranks=ranks, afresh=resume == "never", make_probe=make_probe)


def distill_once(
    loaded: Loaded[DistillRecipe],
    *,
    ranks: Ranks,
    afresh: bool = False,
    label: str = "distill",
    lineage: Sequence[str] = (),
    on_accepted: Callable[[], None] = lambda: None,
    make_probe: MakeProbe | None = None,
) -> DistillResult:
    """Run a recipe to completion, as `distill` does.

    Args:
        loaded: the recipe.
        ranks: this process among the processes of the run.
        afresh: remove the results of an earlier run and start from the first step.
        label: name of the run in progress and messages.
        lineage: the names of its teacher, of the teacher of that, and so on; for the model card. Empty: that of the
            recipe.
        on_accepted: called in the first process once the folder is known to be of this run.
        make_probe: as for `distill`.
    """
    recipe, resolved = loaded.recipe, resolved_yaml(loaded)
    with run_folder(Path(recipe.out), recipe=resolved) if ranks.is_first else contextlib.nullcontext():
        wait_for_first(ranks)
        with tokenizer_folder(model_path(recipe.teacher.model)) as tokenizer:
            plan = plan_distillation(recipe, tokenizer=tokenizer)
            if not afresh:
                require_no_stages(Path(recipe.out))
            probe = probe_of(recipe, plan, make_probe)
            return _distill(_Run(recipe, plan, probe, resolved, ranks, label, lineage, on_accepted), afresh=afresh)


def require_no_stages(out: Path) -> None:
    """Require that `out` is not the folder of a chain; raises AnotherRunError."""
    if (out / STAGES).exists():
        raise AnotherRunError(f"{out} belongs to a different run, one with stages. Choose another out folder")


@dataclass(frozen=True)
class _Run:
    """What a run is made from."""

    recipe: DistillRecipe
    plan: DistillPlan
    probe: Probe | None
    resolved: str
    ranks: Ranks
    label: str
    lineage: Sequence[str]
    on_accepted: Callable[[], None]


def _distill(run: _Run, *, afresh: bool) -> DistillResult:
    recipe, plan, ranks = run.recipe, run.plan, run.ranks
    out, device = Path(recipe.out), this_device()
    teacher, students, plan = load_models(recipe, plan, device)
    engine = None if teacher is None else teacher.engine
    accept = accept_any if afresh else partial(_require_same_run, recipe, plan, engine)
    with first_before_others(ranks):
        shards = open_corpus(recipe, corpus_folder(recipe, out, plan, accept), plan, verify=True)
    computed_by = None if teacher is None else teacher.computed_by
    cached = cached_teacher(recipe, plan, shards.manifest, shards.lengths, computed_by=computed_by, device=device)
    criterion = make_criterion(recipe, plan, cached or teacher, students)
    objective = make_objective(recipe, plan, criterion, shards, device=device, ranks=ranks)
    identity = identity_of(recipe, shards, plan, engine=engine)
    _accept(run, identity, afresh=afresh)
    _say_what_runs(recipe, plan, len(shards), device)
    if teacher is not None:
        lengths = [np.array(part.packed.lengths) for part in objective.batch(0).parts]
        say_how_it_runs(teacher, plan.teacher, lengths, of="the first step")
        if cached is not None and not is_finished(out / "checkpoints", identity, total_steps=recipe.train.steps):
            _fill(run, cached, teacher, shards)
    del teacher  # its memory, where its relations are read from now on
    section = recipe.train
    settings = train_settings(
        section,
        steps=section.steps,
        warmup_steps=section.warmup_steps,
        eval_every=section.eval_every,
        seed=recipe.seed,
        label=run.label,
    )
    more = scores_due(recipe, run.probe, students)
    metrics = summarized(train(objective, settings, folder=out, identity=identity, ranks=ranks, more_scores=more))
    folders = model_folders(out, students)
    if ranks.is_first:
        for name, student in students.items():
            extended_at = extensions(out / "checkpoints")
            card = student_card(recipe, plan, name, lineage=run.lineage, extended_at=extended_at)
            save_student(
                student,
                folders[name],
                teacher=plan.teacher,
                tokenizer=plan.tokenizer,
                card=card,
                head=criterion.head(name),
            )
        report_distillation(recipe, plan, shards.manifest, metrics)
    wait_for_first(ranks)
    return DistillResult(
        folders=folders, metrics=metrics, num_parameters=sizes_of(plan), shards=shards, identity=identity
    )


def _say_what_runs(recipe: DistillRecipe, plan: DistillPlan, documents: int, device: str) -> None:
    loss, layers = recipe.loss, ", ".join(map(str, plan.teacher_layers))
    what = f"distilling layer{'s' * (len(plan.teacher_layers) > 1)} {layers} of {plan.teacher} into"
    if loss.objective == "mlm":
        what = "training as masked language models:"
    how = f"; relation losses: {loss_implementation(device)}" if loss.objective == "relations" else ""
    logger.info("%s %s; %d documents%s", what, ", ".join(plan.students), documents, how)


def _require_same_run(recipe: DistillRecipe, plan: DistillPlan, engine: object, corpus: Path) -> None:
    """Require that the checkpoints of the run folder, if any, are of this run with the corpus in a folder."""
    shards = open_corpus(recipe, corpus, plan, verify=False)
    identity = identity_of(recipe, shards, plan, engine=engine)
    require_run(Path(recipe.out) / "checkpoints", identity, total_steps=recipe.train.steps)


def _accept(run: _Run, identity: Identity, *, afresh: bool) -> None:
    """Require that the folder is of this run; the first process then marks it."""
    out, ranks = Path(run.recipe.out), run.ranks
    with first_before_others(ranks):
        if afresh and ranks.is_first:
            remove_results(out)
        require_run(out / "checkpoints", identity, total_steps=run.recipe.train.steps)
        if ranks.is_first:
            atomic_write(out / RECIPE, run.resolved)
            run.on_accepted()


def _fill(run: _Run, cached: CachedTeacher, teacher: Teacher, shards: Shards) -> None:
    """Fill the cache of the run, unless it is complete, and open it."""
    recipe, name = run.recipe, str(run.plan.teacher)
    assert recipe.cache is not None
    share = recipe.train.steps * recipe.train.batch_size / len(shards)
    if share < 1 and not cached.is_complete:
        logger.warning(
            "the cache holds the whole corpus, of which this run reads %.1f%%: storing it takes longer than it saves, "
            "unless other runs read it",
            100 * share,
        )
    out, room = Path(recipe.out), Room()
    room.take(out, sum(folder_bytes(recipe, run.plan).values()), held=held_bytes(*(out / part for part in RUN_PARTS)))
    Filling(cached, teacher, shards, name=name, device=this_device(), ranks=run.ranks).run(recipe.cache, room)


def this_device() -> str:
    """Where a run computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def model_folders(out: Path, names: Collection[str]) -> dict[str, Path]:
    """Where the students of a run are saved."""
    return {name: out / "model" if len(names) == 1 else out / "model" / name for name in names}


def sizes_of(plan: DistillPlan) -> dict[str, int]:
    """Parameters of each student."""
    return {name: config.num_parameters() for name, config in plan.configs.items()}


def load_models(
    recipe: DistillRecipe, plan: DistillPlan, device: str
) -> tuple[Teacher | None, dict[str, Encoder], DistillPlan]:
    """The teacher if there is one, the students before their first step, and the plan by what the teacher computes."""
    teacher = load_teacher_for(recipe, plan, device)
    if recipe.cache is not None:
        require_storable(recipe.loss, plan, teacher)
    if teacher is not None:  # by what it computes, not by its configuration
        heads = relation_heads(recipe.loss, teacher.sizes, plan.configs)
        plan = replace(plan, sizes=teacher.sizes, relation_heads=heads)
    students = {
        name: make_student(student, teacher=plan.teacher, seed=recipe.seed).to(device)
        for name, student in plan.students.items()
    }
    for student in students.values():
        student.attention_dropout = recipe.train.attention_dropout
    return teacher, students, plan


def accept_any(_: Path) -> None:
    """What accepts any corpus, see `build_once`."""


def corpus_folder(recipe: Distillation, out: Path, plan: DistillPlan, accept: Callable[[Path], object]) -> Path:
    """The folder of a recipe's corpus: the one that it names, else one below `out`; see `build_once`."""
    named = recipe.data.corpus
    return Path(named) if named is not None else build_once(recipe.data, out, plan, accept)


def build_once(data: DataSection, out: Path, plan: DistillPlan, accept: Callable[[Path], object] = accept_any) -> Path:
    """Shards of the recipe's text files below `out`; rebuilt only if a file or its reading settings changed.

    New shards replace others only if `accept`, which gets their folder, does not raise.
    """
    inputs = [Path(name) for name in data.inputs]
    source = {
        "files": [[path.name, sha256_file(path)] for path in inputs],
        "field": data.field,
        "max_tokens": data.max_tokens,
        "max_bad_rows": data.max_bad_rows,
        "tokenizer": plan.tokenizer.fingerprint,
    }
    folder = out / "corpus"
    if _was_built_from(source, folder / "source.json"):
        return folder / "shards"
    with atomic_folder(folder, replace=True) as aside, build_display() as show:
        build_shards(
            inputs,
            tokenizer=plan.tokenizer_folder,
            out=aside / "shards",
            max_tokens=data.max_tokens,
            field=data.field,
            workers=data.workers,
            max_bad_rows=data.max_bad_rows,
            on_progress=show,
        )
        write_json(aside / "source.json", source)
        accept(aside / "shards")
    return folder / "shards"


def _was_built_from(source: Mapping[str, object], record: Path) -> bool:
    try:
        return read_json(record) == source
    except DataError:  # missing or damaged
        return False


def make_objective(
    recipe: DistillRecipe,
    plan: DistillPlan,
    criterion: Criterion,
    shards: Shards,
    *,
    device: str,
    ranks: Ranks = ALONE,
) -> DistillObjective:
    """The objective of a recipe over `shards`; raises DataError if no document is left to train on."""
    settings = ObjectiveSettings(
        normalization=recipe.loss.normalization,
        batch_size=recipe.train.batch_size,
        tokens_per_batch=recipe.train.tokens_per_batch,
        num_heldout=recipe.data.heldout_documents,
        seed=recipe.seed,
        masking=masking_of(recipe, plan),
        device=device,
    )
    return DistillObjective(criterion, shards, settings, ranks)


def identity_of(recipe: DistillRecipe, shards: Shards, plan: DistillPlan, *, engine: object) -> Identity:
    """Everything that must be equal to resume from a checkpoint; models and data by their contents.

    `engine` is what computes the teacher.
    """
    models = {"teacher": plan.teacher}
    for number, student in enumerate(plan.students.values()):
        if student.continued is not None:
            models[f"students.{number}.init"] = student.continued
    return {
        **identity_values(recipe, but=_NOT_IDENTITY, but_section="probe"),
        "teacher.layer": plan.sizes.layer,
        **{f"{name} {part}": sha for name, path in models.items() for part, sha in model_checksums(path).items()},
        "tokenizer": shards.manifest.tokenizer,
        "dataset": shards.manifest.fingerprint,
        "device": this_device(),
        "relation loss": loss_implementation(this_device()),
        "teacher.engine": engine,
    }
