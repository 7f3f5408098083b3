"""Reports of fine-tuning: a single run, or a sweep with mean and deviation.

In: results of runs, their metrics and analyses. Out: `report.html`, and the rows of its summary tables.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from minilm.files.json import read_json, with_nulls
from minilm.finetune.result import ANALYSIS, RunResult, SettingRuns, best_point, verdict
from minilm.recipe import FinetuneRecipe
from minilm.report.curves import Curve
from minilm.report.page import curve_of, duration, write_report
from minilm.train.metrics import read_metrics
from minilm.train.schedule import extension_note

_Rows = Sequence[Mapping[str, object]]
_Point = tuple[float | None, float | None]


def report_run(recipe: FinetuneRecipe, result: RunResult) -> None:
    """Write `report.html` of one run: metrics, curves, and the analysis of its held-out sets."""
    tables, plots, examples = _shown(result.folder)
    write_report(
        result.folder,
        title=recipe.name,
        table=[
            {"number": name, "value": value}
            | {of: numbers[name] for of, numbers in result.references.items() if name in numbers}
            for name, value in result.numbers.items()
        ],
        metrics=read_metrics(result.folder),
        notes=_notes(recipe, result),
        marks=result.extended_at,
        scores=[name for name in result.numbers if _is_score(name)],
        tables=tables,
        plots=plots,
        examples=examples,
    )


def report_sweep(recipe: FinetuneRecipe, out: Path, points: Sequence[SettingRuns]) -> None:
    """Write `report.html` of a sweep: mean, deviation and best of each setting, all runs, the best run's analysis."""
    best = best_point(points)
    run = best.best
    tables, plots, examples = _shown(run.folder)
    write_report(
        out,
        title=recipe.name,
        table=point_rows(points),
        metrics=_joined_metrics(best.runs),
        notes=[
            *_notes(recipe, run),
            f"The MiniLM paper reports the mean over seeds of the best setting: {best.mean:.4g} here "
            f"({best.describe()}, {len(best.runs)} seeds).",
            f"The analysis and the examples are from the best run of that setting, seed {run.seed}.",
        ],
        scores=[f"seed {result.seed} {run.main_metric}" for result in best.runs],
        tables={"All runs": run_rows(points), **tables},
        plots=plots,
        examples=examples,
    )


def point_rows(points: Sequence[SettingRuns]) -> list[dict[str, object]]:
    """One row per setting: its values, mean, deviation and best over the seeds; the best setting is marked."""
    chosen = best_point(points)
    return [
        {
            "setting": point.describe(),
            "seeds": len(point.runs),
            f"{point.metric} mean": point.mean,
            "deviation": point.deviation,
            "best": point.best.main,
            "chosen": "best mean" if point is chosen else "",
        }
        for point in points
    ]


def run_rows(points: Sequence[SettingRuns]) -> list[dict[str, object]]:
    """One row per run with all its metrics, None for one that is not finite."""
    return [
        {"setting": point.describe(), "seed": run.seed, **with_nulls(run.numbers), "best step": run.best_step}
        for point in points
        for run in point.runs
    ]


def _is_score(name: str) -> bool:
    """Whether a metric is a score that fits the common chart: not a count, a threshold or a loss."""
    last = name.rpartition(".")[2]
    return not last.startswith("best_") and not last.endswith(("total", "loss"))


def _joined_metrics(runs: Sequence[RunResult]) -> list[dict[str, float]]:
    """The metrics of all seeds, prefixed with the seed."""
    return [
        {"step": row["step"]}
        | {f"seed {run.seed}.loss": row[key] for key in ("loss",) if key in row}
        | {f"seed {run.seed} {key}": row[key] for key in (run.main_metric,) if key in row}
        for run in runs
        for row in read_metrics(run.folder)
    ]


def _shown(folder: Path) -> tuple[dict[str, _Rows], dict[str, Sequence[Curve]], list[Mapping[str, str]]]:
    """Tables, plots and examples of a run's analysis; titles name the held-out set if there are several."""
    analyses = cast("Mapping[str, Mapping[str, object]]", read_json(folder / ANALYSIS))
    tables: dict[str, _Rows] = {}
    plots: dict[str, Sequence[Curve]] = {}
    examples: list[Mapping[str, str]] = []
    for name, analysis in analyses.items():
        prefix = f"{name}: " if len(analyses) > 1 else ""
        for title, rows in cast("Mapping[str, _Rows]", analysis["tables"]).items():
            tables[prefix + title] = rows
        lines = cast("Mapping[str, Mapping[str, Sequence[_Point]]]", analysis["curves"])
        for title, curves in lines.items():
            plots[prefix + title] = [curve_of(line, points) for line, points in curves.items()]
        examples += cast("Sequence[Mapping[str, str]]", analysis["examples"])
    return tables, plots, examples


def _notes(recipe: FinetuneRecipe, result: RunResult) -> list[str]:
    section = recipe.train
    return [
        f"Model {recipe.model}; task {recipe.task.name}; {result.train_examples:,} training examples from "
        f"{', '.join(recipe.task.train)}.",
        f"Batch {result.batch_size}, learning rate {result.learning_rate:g}, {result.steps} steps, "
        f"warmup of {section.num_warmup_steps(result.steps)}, {section.precision}.",
        f"The metrics are those of the checkpoint with the best {result.main_metric} on {recipe.task.dev[0]}."
        if recipe.task.dev
        else "There is no held-out data, so no checkpoint was selected.",
        *filter(None, [verdict(result)]),
        *([f"This run was {extension_note(result.extended_at, result.steps)}."] if result.extended_at else []),
        f"Finished {time.strftime('%Y-%m-%d %H:%M:%S')}; this run took {duration(result.seconds)}.",
    ]
