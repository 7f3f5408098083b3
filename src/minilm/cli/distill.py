"""`minilm distill`: run a distillation recipe, or show what it would run.

In: a recipe (a path, or the name of a shipped one) and overrides. Out: a run folder with the student models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from minilm.cli.recipe_run import DryRun, Overrides, RecipeName, Resume, running, show_dry_run
from minilm.cli.table import aligned

if TYPE_CHECKING:
    from minilm.distill.run import DistillResult


def distill(
    recipe: RecipeName,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Resume = "auto",
) -> None:
    """Distill a teacher into one or more students.

    It can be stopped at any time; the same command resumes the run. A recipe with stages is a chain: the student of a
    stage is the teacher of the next one.

    Examples:
      minilm distill my.yaml --set train.learning_rate=3e-4 --set out=runs/mine
      minilm distill tiny-embedded --set data.inputs.0=my.txt --dry-run
    """
    from minilm.recipe import Distillation, find_recipe, load_recipe, resolved_yaml

    loaded = load_recipe(find_recipe(recipe), overrides or [], kind=Distillation)
    if dry_run:
        from minilm.distill.dry_run import dry_run as plan
        from minilm.finetune.probe import GlueProbe
        from minilm.train.allocator import keep_freed_memory

        keep_freed_memory()  # as in the run that is measured
        show_dry_run(resolved_yaml(loaded), lambda: plan(loaded, make_probe=GlueProbe))
        return
    from minilm.distill.chain import run_distillation
    from minilm.finetune.probe import GlueProbe
    from minilm.train.distributed import is_first_process

    with running():
        result = run_distillation(loaded, resume=resume, make_probe=GlueProbe)
    if is_first_process():
        typer.echo(_table(result))


def _table(result: DistillResult) -> str:
    """One line per student: its size, held-out loss, agreement with the teacher, and folder."""
    rows = [("student", "parameters", "held-out loss", "agreement", "folder")]
    for name, folder in result.folders.items():
        loss = result.metrics.get(f"{name}.heldout_loss")
        agreement = result.metrics.get(f"{name}.agreement")
        rows.append(
            (
                name,
                f"{result.num_parameters[name]:,}",
                "-" if loss is None else f"{loss:.6g}",
                "-" if agreement is None else f"{agreement:.1%}",
                str(folder),
            )
        )
    return aligned(rows, "<>>><")
