"""`minilm finetune`: run a fine-tuning recipe and its sweep, or show what it would run.

In: a recipe (a path, or the name of a shipped one) and overrides. Out: a run folder with the best model, and a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from minilm.cli.recipe_run import DryRun, Overrides, RecipeName, Resume, running, show_dry_run
from minilm.cli.table import aligned

if TYPE_CHECKING:
    from minilm.finetune.result import SettingRuns


def finetune(
    recipe: RecipeName,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Resume = "auto",
) -> None:
    """Fine-tune an encoder: labels, answers, tagged words, text vectors, a reranker, or text from text.

    It can be stopped at any time; the same command resumes the run. Several processes can share each step: torchrun
    --nproc-per-node 2 --no-python minilm finetune my.yaml

    Examples:
      minilm finetune my.yaml --set train.learning_rate=3e-5 --set out=runs/mine
      minilm finetune rte-in-house-l6 --set model=runs/mine/model --set sweep=null
      minilm finetune glue/rte-bert-base --set model=embedded --dry-run
      minilm finetune ner --set 'task.train=[train.conll]' --set 'task.dev=[dev.conll]'
    """
    from minilm.recipe import FinetuneRecipe, find_recipe, load_recipe, resolved_yaml

    loaded = load_recipe(find_recipe(recipe), overrides or [], kind=FinetuneRecipe)
    if dry_run:
        from minilm.finetune.sweep import check_recipe

        show_dry_run(resolved_yaml(loaded), lambda: (("checked", line) for line in check_recipe(loaded, resume=resume)))
        return
    from minilm.finetune.sweep import finetune as run
    from minilm.train.distributed import is_first_process

    with running():
        points = run(loaded, resume=resume)
    if is_first_process():
        typer.echo(_table(points))
        typer.echo(f"everything is in {loaded.recipe.out} (report.html, model/)")


def _table(points: Sequence[SettingRuns]) -> str:
    """One line per setting: the mean and deviation of its scores over the seeds."""
    from minilm.finetune.result import best_point, verdict

    if not any(run.numbers for point in points for run in point.runs):
        return "\n".join(f"{point.describe()}: not scored, task.dev names no held-out data" for point in points)
    chosen = best_point(points)
    rows = [("", "seeds", points[0].metric, "deviation", "best")]
    for point in points:
        mark = "  <- best mean" if point is chosen and len(points) > 1 else ""
        deviation = f"{point.deviation:.2f}" if len(point.runs) > 1 else "-"
        numbers = (f"{point.mean:.2f}", deviation, f"{point.best.main:.2f}{mark}")
        rows.append((point.describe(), str(len(point.runs)), *numbers))
    others = [name for name in chosen.best.numbers if name != chosen.metric]
    rest = ", ".join(f"{name} {chosen.best.numbers[name]:.4g}" for name in others)
    said = verdict(chosen.best)
    return "\n".join([aligned(rows, "<>>><"), *([f"best run: {rest}"] if rest else []), *([said] if said else [])])
