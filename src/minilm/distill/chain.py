"""A chain of distillations: teacher -> assistant -> student, each stage with a separate run folder.

In: a recipe with stages. Out: a folder with `corpus/`, `stages/1/`, `stages/2/` ..., each as of a single run, and the
students of the last stage in `model/`; one `report.html` for all stages.

A stage that has finished is not run again; killed in any stage, the same call resumes there.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

from minilm.corpus.shards import Shards
from minilm.distill.plan import open_corpus
from minilm.distill.probing import MakeProbe, probe_of
from minilm.distill.report import report_chain
from minilm.distill.run import (
    DistillResult,
    accept_any,
    corpus_folder,
    distill,
    distill_once,
    identity_of,
    model_folders,
    sizes_of,
)
from minilm.distill.stages import PlannedStage, planned
from minilm.errors import DataError, UsageError
from minilm.files.atomic import atomic_folder, atomic_write
from minilm.files.json import read_json, with_nulls, write_json
from minilm.hub import base_name
from minilm.model.metadata import model_checksums
from minilm.recipe import ChainRecipe, Distillation, DistillRecipe, Loaded, resolved_yaml
from minilm.train.distributed import Ranks, first_before_others, process_group, wait_for_first
from minilm.train.folder import RECIPE, STAGES, remove_results, run_folder
from minilm.train.metrics import restored
from minilm.train.state import AnotherRunError, require_run, saved_run

logger = logging.getLogger(__name__)

_RESULT = "result.json"


def run_distillation(
    loaded: Loaded[Distillation],
    *,
    resume: Literal["auto", "never"] = "auto",
    make_probe: MakeProbe | None = None,
) -> DistillResult:
    """Run a recipe with or without stages; see `distill` and `distill_chain`."""
    recipe, origins = loaded.recipe, loaded.origins
    if isinstance(recipe, ChainRecipe):
        return distill_chain(Loaded(recipe=recipe, origins=origins), resume=resume, make_probe=make_probe)
    assert isinstance(recipe, DistillRecipe)
    return distill(Loaded(recipe=recipe, origins=origins), resume=resume, make_probe=make_probe)


def distill_chain(
    loaded: Loaded[ChainRecipe],
    *,
    resume: Literal["auto", "never"] = "auto",
    make_probe: MakeProbe | None = None,
) -> DistillResult:
    """Run all stages to completion; restarted after a kill, the chain resumes and ends with bit-identical weights.

    Args:
        loaded: the recipe.
        resume: `auto` continues after the last finished stage; `never` removes the results of all stages first.
        make_probe: as for `distill`.

    Returns:
        The models and held-out metrics of all stages.

    Raises:
        UsageError, DataError, SystemProblem, Interrupted: as for `distill`.
    """
    recipe, resolved = loaded.recipe, resolved_yaml(loaded)
    out = Path(recipe.out)
    with process_group() as ranks, run_folder(out, recipe=resolved) if ranks.is_first else contextlib.nullcontext():
        wait_for_first(ranks)
        with planned(loaded) as plans:
            if resume == "auto":
                _require_chain(out, len(plans))
            with first_before_others(ranks):
                first = plans[0]
                probe_of(first.recipe, first.plan, make_probe)  # its files must be there before the first stage
                accept = accept_any if resume == "never" else partial(_require_same_chain, plans)
                corpus = corpus_folder(recipe, out, first.plan, accept)
                shards = open_corpus(first.recipe, corpus, first.plan, verify=False)
                if resume == "never" and ranks.is_first:
                    remove_results(out)
            stages = [stage.reading(corpus) for stage in plans]
        results = _resumed(stages, shards)
        for stage in stages[: len(results)]:
            logger.info("%s has finished", stage.label)
        wait_for_first(ranks)
        accepted = partial(atomic_write, out / RECIPE, resolved)
        for stage in stages[len(results) :]:
            run = partial(distill_once, ranks=ranks, on_accepted=accepted, make_probe=make_probe)
            results.append(_run(stage, stages, ranks, run))
            if ranks.is_first and stage is not stages[-1]:
                report_chain(recipe, stages, [one.metrics for one in results], shards.manifest)
        if ranks.is_first:
            accepted()
            _publish(out, results[-1])
            report_chain(recipe, stages, [one.metrics for one in results], shards.manifest)
        wait_for_first(ranks)
    return _joined(out, results)


def _require_chain(out: Path, count: int) -> None:
    """Require that `out` holds neither a single run nor more stages than the recipe has."""
    another = f"{out} belongs to a different run"
    if (out / "checkpoints").exists():
        raise AnotherRunError(f"{another}, one without stages. Choose another out folder")
    folder = out / STAGES
    numbers = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    if max(numbers, default=0) > count:
        raise AnotherRunError(
            f"{another}: it had {max(numbers)} stages, the recipe has {count}. Restore them or choose another out "
            "folder"
        )


def _require_same_chain(plans: Sequence[PlannedStage], corpus: Path) -> None:
    """Require that what is in the folders of the stages can be resumed with the corpus in a folder; see `_resumed`."""
    shards = open_corpus(plans[0].recipe, corpus, plans[0].plan, verify=False)
    _resumed([stage.reading(corpus) for stage in plans], shards)


def _resumed(stages: Sequence[PlannedStage], shards: Shards) -> list[DistillResult]:
    """The results of the stages that have finished; what is there of the others can be resumed.

    Raises:
        AnotherRunError: the first of the others has checkpoints of another run.
        UsageError: a later one has learned from a student that is to be trained further.
    """
    results = _finished(stages, shards)
    for stage in stages[len(results) :]:
        checkpoints = _checkpoints(stage)
        saved, done = saved_run(checkpoints) or ({}, 0)
        if saved and stage is stages[len(results)]:  # the models that teach the later ones may be damaged
            identity = identity_of(stage.recipe, shards, stage.plan, engine=saved.get("teacher.engine"))
            require_run(checkpoints, identity, total_steps=stage.recipe.train.steps)
        if done < stage.recipe.train.steps:
            _require_no_later(stage, stages, done)
            break
    return results


def _require_no_later(stage: PlannedStage, stages: Sequence[PlannedStage], done: int) -> None:
    """Require that no stage after one that trains has checkpoints; raises UsageError."""
    later = [one for one in stages[stage.number :] if _checkpoints(one).exists()]
    if later:
        raise UsageError(
            f"{stage.label} has done {done} of {stage.recipe.train.steps} steps, but stage {later[0].number} has "
            f"checkpoints already ({_checkpoints(later[0])}): it has learned from an earlier student of that stage. "
            f"Restore stages.{stage.number - 1}.train.steps, choose another out folder, or remove "
            f"{' and '.join(one.recipe.out for one in later)}, which is then trained again"
        )


def _checkpoints(stage: PlannedStage) -> Path:
    return Path(stage.recipe.out) / "checkpoints"


def _finished(stages: Sequence[PlannedStage], shards: Shards) -> list[DistillResult]:
    """The results of the leading stages that have finished with this recipe, and whose models are whole."""
    results: list[DistillResult] = []
    for stage in stages:
        out = Path(stage.recipe.out)
        try:
            recorded = read_json(out / _RESULT)
            saved = cast("Mapping[str, object]", recorded["identity"])
            result = DistillResult(
                folders=model_folders(out, stage.plan.configs),
                metrics=restored(recorded.pop("metrics")),
                num_parameters=sizes_of(stage.plan),
                shards=shards,
                identity=identity_of(stage.recipe, shards, stage.plan, engine=saved.get("teacher.engine")),
            )
            if recorded != _record(stage, result):
                break
        except (DataError, KeyError, AttributeError):  # the record is missing or damaged, or a model is
            break
        results.append(result)
    return results


def _record(stage: PlannedStage, result: DistillResult) -> dict[str, object]:
    """What a finished stage is known by: its settings and its models."""
    return {
        "identity": dict(result.identity),
        "steps": stage.recipe.train.steps,
        "models": {name: model_checksums(folder) for name, folder in result.folders.items()},
    }


def _run(
    stage: PlannedStage, stages: Sequence[PlannedStage], ranks: Ranks, run: Callable[..., DistillResult]
) -> DistillResult:
    """Run a stage to its end; `result.json` comes last, because it marks the stage as finished."""
    before = stages[: stage.number - 1]
    lineage = [*(next(iter(one.plan.students)) for one in reversed(before)), base_name(stages[0].recipe.teacher.model)]
    result = run(stage.loaded, label=stage.label, lineage=lineage)
    if ranks.is_first:
        values = {**_record(stage, result), "metrics": with_nulls(result.metrics)}
        write_json(Path(stage.recipe.out) / _RESULT, values)
    wait_for_first(ranks)
    return result


def _publish(out: Path, result: DistillResult) -> None:
    """Copy the students of the last stage to where those of any run are."""
    for name, folder in model_folders(out, result.folders).items():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, replace=True) as aside:
            shutil.copytree(result.folders[name], aside, dirs_exist_ok=True)


def _joined(out: Path, results: Sequence[DistillResult]) -> DistillResult:
    """All models and metrics, those of the last stage where a run has them."""
    last = results[-1]
    folders = {name: folder for result in results for name, folder in result.folders.items()}
    return replace(
        last,
        folders={**folders, **model_folders(out, last.folders)},
        metrics={name: value for result in results for name, value in result.metrics.items()},
        num_parameters={name: size for result in results for name, size in result.num_parameters.items()},
    )
