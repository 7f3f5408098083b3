"""Run a recipe of either kind from Python, as `minilm distill` and `minilm finetune` do, without their tables.

In: a recipe from `load_recipe`. Out: a summary of what the run wrote to its folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minilm.hub import downloads
from minilm.recipe import FinetuneRecipe, Loaded, Recipe


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A finished run.

    Attributes:
        folder: the run folder, with `report.html`.
        models: model folders by name: every student of a distillation, of all its stages; `model`, the best model, of a
            fine-tuning run.
        numbers: held-out metrics; for a sweep, those of the best run of the best setting.
    """

    folder: Path
    models: Mapping[str, Path]
    numbers: Mapping[str, float]


def run(
    loaded: Loaded[Recipe], *, resume: Literal["auto", "never"] = "auto", allow_download: bool = False
) -> RunSummary:
    """Run a recipe to completion; after an interruption, the same call resumes from the newest checkpoint.

    Args:
        loaded: from `load_recipe`.
        resume: `never` removes the results of an earlier run from the run folder and starts from the first step.
        allow_download: download models that are named as on the Hugging Face hub and not in its cache.

    Raises:
        UsageError: the run folder belongs to a different run; the message lists the differences.
        DataError: a data file or a model cannot be used.
        SystemProblem: the run folder cannot be written.
        Interrupted: Ctrl-C; the state is saved.
    """
    with downloads(allowed=allow_download):
        return _run(loaded, resume)


def _run(loaded: Loaded[Recipe], resume: Literal["auto", "never"]) -> RunSummary:
    recipe, folder = loaded.recipe, Path(loaded.recipe.out)
    if not isinstance(recipe, FinetuneRecipe):
        from minilm.distill.chain import run_distillation
        from minilm.finetune.probe import GlueProbe

        inner = Loaded(recipe=recipe, origins=loaded.origins)
        result = run_distillation(inner, resume=resume, make_probe=GlueProbe)
        return RunSummary(folder=folder, models=result.folders, numbers=result.metrics)
    from minilm.finetune.result import best_point
    from minilm.finetune.sweep import finetune

    best = best_point(finetune(Loaded(recipe=recipe, origins=loaded.origins), resume=resume)).best
    return RunSummary(folder=folder, models={"model": folder / "model"}, numbers=best.numbers)
