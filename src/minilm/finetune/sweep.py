"""Sweeps over seeds and a grid of settings. Each combination is one run; the best setting has the best mean.

In: a recipe, with or without a sweep. Out: a run folder; for a sweep, one run folder per combination in `runs/`, a
report with mean and deviation, `results.json` and the model of the best run.

Runs are sequential, or parallel with one run per device, each in a separate process. Finished runs are not repeated,
so an interrupted sweep resumes where it stopped.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import torch

from minilm.errors import DataError, Interrupted, MinilmError, SystemProblem, UsageError
from minilm.files.atomic import atomic_folder, atomic_write, make_folder
from minilm.files.json import read_json, write_json
from minilm.finetune.report import report_sweep, run_rows
from minilm.finetune.result import RESULT, RunResult, SettingRuns, best_point
from minilm.finetune.run import check_files, finetune_once
from minilm.recipe import FinetuneRecipe, Loaded, resolved_yaml
from minilm.train.distributed import ALONE, Ranks, process_group
from minilm.train.folder import RECIPE, remove_results, require_outside, require_run_folder, run_folder

logger = logging.getLogger(__name__)

RESULTS = "results.json"
_BULKY = ("checkpoints", "best")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One run of a sweep: its recipe and its label."""

    loaded: Loaded[FinetuneRecipe]
    label: str

    @property
    def resolved(self) -> str:
        """The recipe of the run as text."""
        return resolved_yaml(self.loaded)


def finetune(loaded: Loaded[FinetuneRecipe], *, resume: Literal["auto", "never"] = "auto") -> list[SettingRuns]:
    """Run a recipe, including its complete sweep. After a kill, the same call resumes.

    Args:
        loaded: the recipe.
        resume: "never" removes the results of an earlier run and starts from the first step.

    Returns:
        One point per setting; a recipe without a sweep yields one point with one run.

    Raises:
        UsageError: the run folder belongs to another dataset, tokenizer, model or recipe; the message names the
            difference.
        DataError: a data file or the model cannot be used.
        SystemProblem: a file cannot be written, or the process of a run died.
        Interrupted: Ctrl-C; the state is saved.
    """
    recipe, afresh = loaded.recipe, resume == "never"
    with process_group() as ranks:
        if recipe.sweep is None:
            result = finetune_once(recipe, resolved=resolved_yaml(loaded), afresh=afresh, ranks=ranks)
            return _points([result])
        jobs = _jobs(loaded)
        if not ranks.is_first:
            return _points([_run_here(job, ranks) for job in jobs])
        out = Path(recipe.out)
        with run_folder(out, recipe=resolved_yaml(loaded)):
            if afresh:
                check_files(jobs[0].loaded.recipe, afresh=True)
                remove_results(out)
            atomic_write(out / RECIPE, resolved_yaml(loaded))
            points = _points(_run_all(jobs, recipe, ranks))
            _finish(recipe, out, points)
        return points


def check_recipe(loaded: Loaded[FinetuneRecipe], *, resume: Literal["auto", "never"] = "auto") -> list[str]:
    """Check the files of a recipe and say what would run; write nothing. Raises the errors of `finetune`."""
    require_run_folder(Path(loaded.recipe.out))
    afresh = resume == "never"
    if loaded.recipe.sweep is None:
        return check_files(loaded.recipe, afresh=afresh)
    jobs = _jobs(loaded)
    return [*check_files(jobs[0].loaded.recipe, afresh=afresh), f"{len(jobs):,} runs; this is the first of them"]


def _jobs(loaded: Loaded[FinetuneRecipe]) -> list[_Job]:
    """All combinations of the grid. Seeds vary fastest, so each setting completes before the next one starts.

    Raises:
        UsageError: the sweep would replace what its runs read.
    """
    recipe, sweep = loaded.recipe, loaded.recipe.sweep
    assert sweep is not None
    require_outside(recipe)
    grid = list(
        itertools.product(
            sweep.learning_rate or [recipe.train.learning_rate],
            sweep.epochs or [recipe.train.epochs],
            sweep.batch_size or [recipe.train.batch_size],
            sweep.seeds or [recipe.seed],
        )
    )
    jobs = []
    for number, (learning_rate, epochs, batch_size, seed) in enumerate(grid, start=1):
        length = f"epochs{epochs:g}" if recipe.train.steps is None else f"steps{recipe.train.steps}"
        name = f"lr{learning_rate:g}-{length}-batch{batch_size}-seed{seed}"
        changed = {"learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size}
        run = recipe.model_copy(
            update={
                "name": f"{recipe.name} {name}",
                "out": str(Path(recipe.out) / "runs" / name),
                "seed": seed,
                "sweep": None,
                "train": replace(recipe.train, learning_rate=learning_rate, epochs=epochs, batch_size=batch_size),
            }
        )
        origins = {key: origin for key, origin in loaded.origins.items() if not key.startswith("sweep")}
        origins |= dict.fromkeys(("out", "name", "seed", *(f"train.{key}" for key in changed)), "sweep")
        jobs.append(
            _Job(
                loaded=Loaded(recipe=run, origins={**origins, "sweep": "default"}),
                label=f"run {number}/{len(grid)} {name}",
            )
        )
    return jobs


def _points(results: Sequence[RunResult]) -> list[SettingRuns]:
    """Group runs by setting, in grid order."""
    runs: dict[tuple[float, float, int], list[RunResult]] = {}
    for result in results:
        runs.setdefault((result.learning_rate, result.epochs, result.batch_size), []).append(result)
    return [SettingRuns(runs=found) for found in runs.values()]


def _run_all(jobs: Sequence[_Job], recipe: FinetuneRecipe, ranks: Ranks) -> list[RunResult]:
    devices = _devices(recipe, ranks)
    if not devices:
        return [_run_here(job, ranks) for job in jobs]
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    with ThreadPoolExecutor(len(devices)) as threads:
        list(threads.map(lambda job: _run_apart(job, free, len(devices)), jobs))
    return [_run_here(job, ALONE) for job in jobs]  # all are finished; this only reads their results


def _devices(recipe: FinetuneRecipe, ranks: Ranks) -> list[str]:
    """Devices that run one job at a time each; empty if the jobs run sequentially in this process."""
    assert recipe.sweep is not None
    named = recipe.sweep.devices
    if ranks.world_size > 1:
        if named:
            raise UsageError("sweep.devices cannot be combined with torchrun; remove sweep.devices or omit torchrun")
        return []
    count = torch.cuda.device_count()
    for device in named:
        _environment(device, len(named))  # rejects unknown devices
        if device != "cpu" and int(device.partition(":")[2]) >= count:
            raise UsageError(f"sweep.devices: found {device!r}, but this machine has {count} GPUs")
    return named or ([f"cuda:{index}" for index in range(count)] if count > 1 else [])


def _run_here(job: _Job, ranks: Ranks) -> RunResult:
    result = finetune_once(job.loaded.recipe, resolved=job.resolved, ranks=ranks, label=job.label)
    if ranks.is_first:
        for name in _BULKY:
            shutil.rmtree(result.folder / name, ignore_errors=True)
    return result


def _run_apart(job: _Job, free: SimpleQueue[str], num_devices: int) -> None:
    """Run a job in a separate process that sees a single device, through the same command a user would run."""
    folder = Path(job.loaded.recipe.out)
    make_folder(folder)
    file = folder / "recipe.yaml"
    atomic_write(file, job.resolved)
    device = free.get()
    try:
        logger.info("%s on %s", job.label, device)
        done = subprocess.run(
            [sys.executable, "-m", "minilm.cli.app", "finetune", str(file)],
            env={**os.environ, **_environment(device, num_devices)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        free.put(device)
    _require_success(job, done)


def _environment(device: str, num_devices: int) -> Mapping[str, str]:
    kind, _, number = device.partition(":")
    if kind == "cuda" and number.isdigit():
        return {"CUDA_VISIBLE_DEVICES": number}
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // num_devices))}
    raise UsageError(f"sweep.devices: found {device!r}; expected 'cpu' or 'cuda:0', 'cuda:1' and so on")


def _require_success(job: _Job, done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode == 0:
        return
    last = (done.stderr.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
    kinds: Mapping[int, type[MinilmError]] = {
        kind.exit_code: kind for kind in (UsageError, DataError, SystemProblem, Interrupted)
    }
    raise kinds.get(done.returncode, SystemProblem)(f"{job.label} exited with code {done.returncode}: {last}")


def _finish(recipe: FinetuneRecipe, out: Path, points: Sequence[SettingRuns]) -> None:
    """Keep the model of the best run of the best setting; write report and results."""
    best = best_point(points).best
    kept = _kept_model(out)
    if (best.folder / "model").is_dir():
        with atomic_folder(out / "model", replace=True) as aside:
            shutil.copytree(best.folder / "model", aside, dirs_exist_ok=True)
        kept = best.folder.name
    elif kept != best.folder.name:
        logger.warning(
            "the best run is now %s, whose model was deleted by an earlier sweep; %s is %s. To recreate it, remove %s "
            "and run the same command again",
            best.folder.name,
            out / "model",
            f"the model of {kept}" if kept else "missing",
            best.folder / RESULT,
        )
    for point in points:
        for run in point.runs:
            shutil.rmtree(run.folder / "model", ignore_errors=True)
    report_sweep(recipe, out, points)
    write_json(out / RESULTS, {"metric": best.main_metric, "model": kept, "runs": run_rows(points)})


def _kept_model(out: Path) -> str | None:
    """The run whose model an earlier sweep stored in `out`."""
    if not (out / RESULTS).is_file() or not (out / "model").is_dir():
        return None
    name = read_json(out / RESULTS).get("model")
    return name if isinstance(name, str) else None
