"""Runs beside each other: their numbers, their curves, and what differs in their recipes.

In: run folders of distillation and fine-tuning; of a chain its stages are compared, of a sweep its runs.
Out: rows with a cell per run, for a terminal or a page. Nothing of a run is changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from minilm.distill.agreement import is_of_head, is_of_training
from minilm.distill.stages import stage_recipes
from minilm.errors import UsageError
from minilm.recipe import ChainRecipe, DistillRecipe, FinetuneRecipe, Loaded, Recipe, flat_values, load_recipe
from minilm.report.page import curve_of, duration, write_report
from minilm.train.best import comparable
from minilm.train.folder import RECIPE, STAGES
from minilm.train.metrics import read_metrics

Row = Sequence[str]

_IDENTITY = ("name", "out")  # differ in any two runs
_COSTS = ("step", "tokens", "seconds", "memory_gib", "bad_steps")  # of the lines of metrics.jsonl; not curves
_PROGRESS = ("loss", "gradient_norm", "learning_rate", "tokens_per_second")
_NOT_SET, _NONE = "not set", "-"


@dataclass(frozen=True)
class ComparedRun:
    """One run: a name for the reader, its folder and its recipe."""

    label: str
    folder: Path
    recipe: DistillRecipe | FinetuneRecipe

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The logged lines; the only student of a run is not in the names of its numbers."""
        rows = read_metrics(self.folder)
        students = self.recipe.students if isinstance(self.recipe, DistillRecipe) else []
        if len(students) != 1:
            return rows
        prefix = f"{students[0].name}."
        return [{key.removeprefix(prefix): value for key, value in row.items()} for row in rows]

    @property
    def state(self) -> str:
        """Whether it has finished, and how far it is."""
        step = int(self.metrics[-1]["step"]) if self.metrics else 0
        steps = self.recipe.train.steps
        if isinstance(self.recipe, FinetuneRecipe):
            done = (self.folder / "result.json").is_file()
        else:
            done = step == steps and (self.folder / "model").is_dir()
        where = f"step {step:,}" + (f" of {steps:,}" if steps is not None else "")
        return f"finished, {where}" if done else f"unfinished, {where}" if step else "unfinished, nothing logged"

    @property
    def values(self) -> Mapping[str, object]:
        """Its recipe by dotted key, without what names it."""
        return {key: value for key, value in flat_values(self.recipe).items() if key not in _IDENTITY}

    def points(self, key: str) -> list[tuple[float, float]]:
        """Steps and finite values of a number."""
        rows = [(row["step"], row.get(key)) for row in self.metrics]
        return [(step, value) for step, value in rows if isinstance(value, (int, float)) and math.isfinite(value)]


def read_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """The runs in folders, each once.

    Raises:
        UsageError: a folder is not that of a run, is named twice, or there is only one run.
    """
    found = [one for folder in folders for one in _inside(folder)]
    paths = [one.folder.resolve() for one in found]
    if twice := [one.folder for one in found if paths.count(one.folder.resolve()) > 1]:
        raise UsageError(f"{twice[0]} is named more than once: name each run once")
    if len(found) < 2:
        raise UsageError(f"found one run, {found[0].folder}, expected two or more run folders to compare")
    labels = _labels([one.label for one in found])
    return [replace(one, label=label) for label, one in zip(labels, found, strict=True)]


def _inside(folder: Path) -> list[ComparedRun]:
    """The runs of a folder, each labelled with a path: the stages of a chain, the runs of a sweep, or itself."""
    recipe, path = _recipe_of(folder), folder.resolve().as_posix()
    if isinstance(recipe, ChainRecipe):
        stages = stage_recipes(Loaded(recipe=recipe, origins={}))
        return [
            ComparedRun(f"{path} stage {number}", folder / STAGES / str(number), stage.recipe)
            for number, stage in enumerate(stages, start=1)
        ]
    if not isinstance(recipe, FinetuneRecipe) or recipe.sweep is None:
        return [ComparedRun(path, folder, recipe)]
    begun = sorted(inner for inner in (folder / "runs").glob("*") if (inner / RECIPE).is_file())
    if not begun:
        raise UsageError(f"{folder}: none of the runs of this sweep has begun; compare it when one has")
    return [one for inner in begun for one in _inside(inner)]


def unfinished_sweeps(folders: Sequence[Path]) -> list[str]:
    """A sentence for each sweep that has not finished: runs that have not begun are not compared."""
    sweeps = [folder for folder in folders if getattr(_recipe_of(folder), "sweep", None) is not None]
    return [
        f"{folder}: this sweep has not finished; runs that have not begun are not shown"
        for folder in sweeps
        if not (folder / "results.json").is_file()
    ]


def _recipe_of(folder: Path) -> Recipe:
    expected = "expected the out folder of minilm distill or minilm finetune"
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; {expected}")
    if not (folder / RECIPE).is_file():
        raise UsageError(f"{folder}: not a run folder, it has no {RECIPE}; {expected}")
    return load_recipe(folder / RECIPE).recipe


def _labels(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as short as they can be while all differ."""
    parts = [tuple(path.split("/")) for path in paths]
    depth = next(size for size in range(1, max(map(len, parts)) + 1) if len({p[-size:] for p in parts}) == len(parts))
    return ["/".join(path[-depth:]) for path in parts]


def number_rows(runs: Sequence[ComparedRun]) -> list[Row]:
    """State and costs of each run, and the last and the best of each number."""
    rows: list[Row] = [["", *(run.label for run in runs)], ["state", *(run.state for run in runs)]]
    for name, shown in (("tokens", _count), ("seconds", duration)):
        totals = [sum(value for _, value in run.points(name)) for run in runs]
        label = "time in steps" if name == "seconds" else name
        rows.append([label, *(shown(total) if total else _NONE for total in totals)])
    for key in _keys(runs):
        if key in _PROGRESS and key != "loss":
            continue
        points = [run.points(key) for run in runs]
        rows.append([f"{key}, last", *(f"{found[-1][1]:.6g}" if found else _NONE for found in points)])
        if _is_held_out(key) and any(len(found) > 1 for found in points):
            rows.append([f"{key}, best", *(_best(key, found) for found in points)])
    return rows


def _is_held_out(key: str) -> bool:
    """Whether a number has a best value: not the loss of training and its parts."""
    return key != "loss" and not is_of_training(key)


def _best(key: str, points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return _NONE
    step, value = max(points, key=lambda point: comparable(key, point[1]))
    return f"{value:.6g} at step {step:,.0f}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _keys(runs: Sequence[ComparedRun]) -> list[str]:
    """What has a curve, in the order of the first run that has it; the numbers of single heads have none."""
    found = dict.fromkeys(key for run in runs for row in run.metrics for key in row)
    keys = [key for key in found if key not in _COSTS and not is_of_head(key)]
    first = [key for key in _PROGRESS if key in keys]
    return [*first, *(key for key in keys if key not in first)]


def recipe_rows(runs: Sequence[ComparedRun]) -> list[Row]:
    """The values that are not the same in all recipes; only a heading if none differs."""
    values = [run.values for run in runs]
    keys = dict.fromkeys(key for one in values for key in one)
    rows: list[Row] = [["", *(run.label for run in runs)]]
    for key in keys:
        cells = [_shown(one[key]) if key in one else _NOT_SET for one in values]
        if len(set(cells)) > 1:
            rows.append([key, *cells])
    return rows


def _shown(value: object) -> str:
    return _NOT_SET if value is None else str(value)


def write_comparison(runs: Sequence[ComparedRun], file: Path) -> None:
    """Write a page with the tables and a chart for each number, with a curve for each run.

    Raises:
        SystemProblem: the file cannot be written.
    """
    numbers, recipes = (_dicts(rows) for rows in (number_rows(runs), recipe_rows(runs)))
    plots = {}
    for key in _keys(runs):
        points = [(run.label, run.points(key)) for run in runs]
        plots[key] = [curve_of(label, found) for label, found in points if found]
    write_report(
        file.parent,
        name=file.name,
        title=" and ".join(run.label for run in runs) if len(runs) < 4 else f"{len(runs)} runs",
        table=numbers,
        metrics=[],
        notes=[f"{run.label}: {run.folder}, {run.recipe.kind}, {run.state}." for run in runs],
        plots=plots,
        tables={"What differs in the recipes": recipes} if recipes else {},
        log_axes=[key for key in plots if key.endswith(("loss", "kl")) or not _is_held_out(key)],
    )


def _dicts(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows of a table of the page; the first row has the names of the columns."""
    return [dict(zip(["value", *rows[0][1:]], row, strict=True)) for row in rows[1:]]
