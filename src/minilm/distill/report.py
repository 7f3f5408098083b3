"""The report of a distillation.

In: a recipe and its plan, the corpus, the metrics in the run folder. Out: `report.html`: the loss of each student and
relation, gradient norm, learning rate and speed over the steps; shapes beside the teacher's; tokens, time and
hardware; hyperparameters and corpus counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from minilm.corpus.shards import ShardManifest
from minilm.distill.plan import DistillPlan
from minilm.files.json import read_json
from minilm.recipe import DistillRecipe, flat_values
from minilm.report.page import curves_of, duration, write_report
from minilm.train.metrics import read_metrics
from minilm.train.schedule import extension_note
from minilm.train.state import extensions

_RELATIONS = "Loss of each relation"
_HYPERPARAMETERS = ("seed", "teacher.layer", "loss.", "train.", "data.max_tokens", "data.heldout_documents")

_NOT_SET = "not set"

_Table = list[dict[str, object]]


def report_distillation(
    recipe: DistillRecipe, plan: DistillPlan, corpus: ShardManifest, heldout: Mapping[str, float]
) -> None:
    """Write `report.html` of a finished run; `heldout` are its last held-out losses, by `NAME.heldout_loss`.

    Raises:
        SystemProblem: the file cannot be written.
    """
    out = Path(recipe.out)
    metrics, extended_at = read_metrics(out), extensions(out / "checkpoints")
    keys = dict.fromkeys(key for row in metrics for key in row)
    relations = [key for key in keys if key.rpartition(".")[0] in plan.students and "-" in key.rpartition(".")[2]]
    notes = [
        f"Loss {recipe.loss.version}, normalized per {recipe.loss.normalization}, {plan.relation_heads} heads.",
        f"Teacher {recipe.teacher.model}, layer {plan.sizes.layer} of {plan.sizes.num_layers}.",
        *(f"Student {name} {student.start}." for name, student in plan.students.items()),
        *([f"This run was {extension_note(extended_at, recipe.train.steps)}."] if extended_at else []),
        f"Finished {time.strftime('%Y-%m-%d %H:%M:%S')}.",
    ]
    write_report(
        out,
        title=recipe.name,
        table=_results(recipe, plan, heldout),
        metrics=metrics,
        notes=notes,
        plots={_RELATIONS: curves_of(metrics, relations)},
        log_axes=("Loss", _RELATIONS),
        marks=extended_at,
        tables={
            "Shapes": _shapes(plan),
            "Run": _run(recipe, metrics, read_json(out / "env.json")),
            "Hyperparameters": _hyperparameters(recipe, plan),
            "Corpus": _corpus(recipe, corpus),
        },
    )


def _results(recipe: DistillRecipe, plan: DistillPlan, heldout: Mapping[str, float]) -> _Table:
    return [
        {
            "student": name,
            "parameters": config.num_parameters(),
            "of the teacher": f"{config.num_parameters() / plan.sizes.num_parameters:.1%}",
            "held-out loss": heldout.get(f"{name}.heldout_loss"),
            "steps": recipe.train.steps,
        }
        for name, config in plan.configs.items()
    ]


def _shapes(plan: DistillPlan) -> _Table:
    """The teacher, and below it each student."""
    models = {"teacher": plan.sizes, **plan.configs}
    keys = ("num_layers", "hidden_size", "num_heads", "intermediate_size", "max_tokens")
    count = {name: config.num_parameters() for name, config in plan.configs.items()}
    return [
        {
            "model": name,
            **{key.replace("_", " "): getattr(model, key) for key in keys},
            "parameters": count.get(name, plan.sizes.num_parameters),
        }
        for name, model in models.items()
    ]


def _run(recipe: DistillRecipe, metrics: Sequence[Mapping[str, float]], environment: Mapping[str, object]) -> _Table:
    """Tokens, time, speed and the machine of the last start; times are those of training steps."""
    tokens, seconds = (sum(row.get(name, 0) for row in metrics) for name in ("tokens", "seconds"))
    facts = cast("Mapping[str, Mapping[str, object]]", environment)
    versions = facts["versions"]
    return _pairs(
        {
            "steps": recipe.train.steps,
            "documents": recipe.train.steps * recipe.train.batch_size,
            "tokens": int(tokens),
            "tokens per second": round(tokens / max(seconds, 1e-9)),
            "time in steps": duration(seconds),
            "processor": f"{facts['cpu']['model']}, {facts['threads']['torch threads']} threads",
            "memory": facts["memory"]["total"],
            "GPUs": "; ".join(map(str, facts["devices"].values())),
            "versions": ", ".join(f"{name} {versions[name]}" for name in ("minilm", "python", "torch", "transformers")),
        },
        "run",
    )


def _hyperparameters(recipe: DistillRecipe, plan: DistillPlan) -> _Table:
    """The values of the recipe; the number of relation heads is that in use."""
    values = {key: value for key, value in flat_values(recipe).items() if key.startswith(_HYPERPARAMETERS)}
    values["loss.relation_heads"] = plan.relation_heads
    return _pairs({key: _NOT_SET if value is None else value for key, value in values.items()}, "key")


def _corpus(recipe: DistillRecipe, corpus: ShardManifest) -> _Table:
    trained = corpus.documents - recipe.data.heldout_documents
    return _pairs(
        {
            "texts": corpus.texts,
            "documents": corpus.documents,
            "of these held out": recipe.data.heldout_documents,
            "tokens": corpus.tokens,
            "tokens per document": round(corpus.tokens / corpus.documents, 1),
            "max tokens per document": corpus.max_tokens,
            "bad rows skipped": corpus.bad_rows,
            "empty texts skipped": corpus.empty_texts,
            "epochs": round(recipe.train.steps * recipe.train.batch_size / trained, 2),
        },
        "corpus",
    )


def _pairs(values: Mapping[str, object], name: str) -> _Table:
    """A table of two columns."""
    return [{name: key, "value": value} for key, value in values.items()]
