"""The report of a distillation.

In: a recipe and its plan, or those of the stages of a chain; the corpus, the metrics in the run folders.
Out: `report.html`: the loss of each student and relation, before the reference curve if there is one, gradient norm,
learning rate and speed over the steps; agreement of each head with the teacher, scores of the probe; shapes beside the
teacher's; tokens, time and hardware; hyperparameters and corpus counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from minilm.corpus.shards import ShardManifest
from minilm.distill.agreement import agreement_keys, is_of_training
from minilm.distill.plan import DistillPlan, described_layers, described_loss
from minilm.distill.probing import probe_key
from minilm.distill.reference import compare_with_reference
from minilm.distill.stages import PlannedStage
from minilm.files.json import read_json
from minilm.recipe import ChainRecipe, DistillRecipe, flat_values
from minilm.report.curves import Curve
from minilm.report.heatmap import HeatMap
from minilm.report.page import curves_of, duration, write_report
from minilm.train.metrics import read_metrics
from minilm.train.schedule import extension_note
from minilm.train.state import extensions

_RELATIONS = "Loss of each relation"
_AGREEMENT = "Agreement with the teacher"
_HYPERPARAMETERS = (
    "seed",
    "teacher.layer",
    "cache.precision",
    "loss.",
    "train.",
    "data.max_tokens",
    "data.heldout_documents",
)

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
    reference = compare_with_reference(recipe, metrics, teacher=plan.teacher, extended=bool(extended_at))
    notes = [
        reference.sentence,
        f"Loss {described_loss(recipe.loss, plan)}.",
        f"Teacher {recipe.teacher.model}, {plan.sizes.num_layers} layers; {described_layers(recipe.loss, plan)}.",
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
        plots=_plots(recipe, metrics, plan),
        behind={"Loss": reference.curves},
        maps=_agreement_maps(metrics, plan),
        log_axes=("Loss", _RELATIONS),
        marks=extended_at,
        tables={
            "Shapes": _shapes(plan),
            "Run": _run(recipe, metrics, read_json(out / "env.json")),
            "Hyperparameters": _hyperparameters(recipe, plan),
            "Corpus": _corpus(recipe, corpus),
        },
    )


def report_chain(
    recipe: ChainRecipe, stages: Sequence[PlannedStage], heldout: Sequence[Mapping[str, float]], corpus: ShardManifest
) -> None:
    """Write `report.html` of a chain; `heldout` are the last held-out losses of the stages that have finished.

    Raises:
        SystemProblem: the file cannot be written.
    """
    out = Path(recipe.out)
    done = stages[: len(heldout)]
    metrics = {stage.number: read_metrics(Path(stage.recipe.out)) for stage in done}
    plots: dict[str, list[Curve]] = {}
    notes, runs = [], []
    for stage in done:
        rows = metrics[stage.number]
        plots |= {_in_stage(title, stage): of for title, of in _plots(stage.recipe, rows, stage.plan).items()}
        extended_at = extensions(Path(stage.recipe.out) / "checkpoints")
        extended = f" It was {extension_note(extended_at, stage.recipe.train.steps)}." if extended_at else ""
        notes.append(f"Stage {stage.number}: {_about_loss(stage.recipe, stage.plan)}{extended}")
        runs.append({"stage": stage.number, **_costs(stage.recipe, rows)})
    unfinished = f"{len(done)} of {len(stages)} stages have finished." if len(done) < len(stages) else "Finished"
    write_report(
        out,
        title=recipe.name,
        table=[
            {"stage": stage.number, **row}
            for stage, numbers in zip(stages, [*heldout, *[{}] * len(stages)], strict=False)
            for row in _results(stage.recipe, stage.plan, numbers)
        ],
        metrics=[row for stage in done for row in _of_stage(stage.number, metrics[stage.number])],
        notes=[*notes, f"{unfinished} {time.strftime('%Y-%m-%d %H:%M:%S')}."],
        plots=plots,
        maps=[one for stage in done for one in _agreement_maps(metrics[stage.number], stage.plan)],
        log_axes=("Loss", *(_in_stage(_RELATIONS, stage) for stage in done)),
        tables={
            "Shapes": [*_shapes(stages[0].plan), *(row for one in stages[1:] for row in _shapes(one.plan)[1:])],
            "Stages": runs,
            "Machine": _pairs(_machine(read_json(out / "env.json")), "machine"),
            "Hyperparameters": _side_by_side(stages),
            "Corpus": _corpus(stages[-1].recipe, corpus),
        },
    )


def _in_stage(title: str, stage: PlannedStage) -> str:
    """The title of a chart of one stage."""
    return f"{title}, stage {stage.number}"


def _of_stage(number: int, rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The rows with the stage in the name of each number; held-out losses have that of their student."""
    return [
        {key if key == "step" or "." in key else f"stage {number}.{key}": value for key, value in row.items()}
        for row in rows
    ]


def _side_by_side(stages: Sequence[PlannedStage]) -> _Table:
    """Hyperparameters with a column per stage."""
    columns = {f"stage {stage.number}": _hyperparameters(stage.recipe, stage.plan) for stage in stages}
    return [
        {"key": rows[0]["key"], **{name: row["value"] for name, row in zip(columns, rows, strict=True)}}
        for rows in zip(*columns.values(), strict=True)
    ]


def _plots(recipe: DistillRecipe, metrics: Sequence[Mapping[str, float]], plan: DistillPlan) -> dict[str, list[Curve]]:
    """The loss of each relation, their agreement with the teacher's, and the scores of the probe, if there is one."""
    plots = {
        _RELATIONS: curves_of(metrics, _relation_keys(metrics, plan)),
        _AGREEMENT: curves_of(metrics, agreement_keys(metrics)),
    }
    if recipe.probe is not None:
        stems = tuple(probe_key(name, recipe.probe, "") for name in plan.students)
        keys = dict.fromkeys(key for row in metrics for key in row if key.startswith(stems))
        plots[f"Probe: {recipe.probe.task}"] = curves_of(metrics, keys)
    return plots


def _relation_keys(metrics: Sequence[Mapping[str, float]], plan: DistillPlan) -> list[str]:
    keys = dict.fromkeys(key for row in metrics for key in row)
    return [key for key in keys if key.rpartition(".")[0] in plan.students and is_of_training(key)]


def _agreement_maps(metrics: Sequence[Mapping[str, float]], plan: DistillPlan) -> list[HeatMap]:
    """For each student and pair the agreement of each head at each evaluation."""
    heads, maps = range(1, plan.relation_heads + 1), []
    for key in agreement_keys(metrics):
        rows = [row for row in metrics if row.get(key) is not None]
        stem = key.removesuffix(".agreement")
        maps.append(
            HeatMap(
                title=f"{stem}: share of tokens with the strongest relation that the teacher has, by relation head",
                columns=("head", [str(head) for head in heads]),
                rows=("step", [f"{row['step']:,}" for row in rows]),
                values=[[row.get(f"{stem}.head{head}.agreement", math.nan) for head in heads] for row in rows],
            )
        )
    return maps


def _about_loss(recipe: DistillRecipe, plan: DistillPlan) -> str:
    return (
        f"loss {described_loss(recipe.loss, plan)}; "
        f"teacher {recipe.teacher.model}, {plan.sizes.num_layers} layers; {described_layers(recipe.loss, plan)}; "
        + "; ".join(f"student {name} {student.start}" for name, student in plan.students.items())
        + "."
    )


def _results(recipe: DistillRecipe, plan: DistillPlan, heldout: Mapping[str, float]) -> _Table:
    return [
        {
            "student": name,
            "parameters": config.num_parameters(),
            "of the teacher": f"{config.num_parameters() / plan.sizes.num_parameters:.1%}",
            "held-out loss": heldout.get(f"{name}.heldout_loss"),
            "agreement with the teacher": _share(heldout.get(f"{name}.agreement")),
            **_probe_scores(recipe, name, heldout),
            "steps": recipe.train.steps,
        }
        for name, config in plan.configs.items()
    ]


def _probe_scores(recipe: DistillRecipe, student: str, heldout: Mapping[str, float]) -> dict[str, float]:
    """The last scores of the probe, named as in `minilm score`."""
    if recipe.probe is None:
        return {}
    stem = probe_key(student, recipe.probe, "")
    return {
        f"{recipe.probe.task} {key.removeprefix(stem)}": value for key, value in heldout.items() if key.startswith(stem)
    }


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


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
    """Tokens, time, speed and the machine of the last start."""
    return _pairs({**_costs(recipe, metrics), **_machine(environment)}, "run")


def _costs(recipe: DistillRecipe, metrics: Sequence[Mapping[str, float]]) -> dict[str, object]:
    """Length, tokens and speed; times are those of training steps."""
    tokens, seconds = (sum(row.get(name, 0) for row in metrics) for name in ("tokens", "seconds"))
    return {
        "steps": recipe.train.steps,
        "documents": recipe.train.steps * recipe.train.batch_size,
        "tokens": int(tokens),
        "tokens per second": round(tokens / max(seconds, 1e-9)),
        "time in steps": duration(seconds),
    }


def _machine(environment: Mapping[str, object]) -> dict[str, object]:
    facts = cast("Mapping[str, Mapping[str, object]]", environment)
    versions = facts["versions"]
    return {
        "processor": f"{facts['cpu']['model']}, {facts['threads']['torch threads']} threads",
        "memory": facts["memory"]["total"],
        "GPUs": "; ".join(map(str, facts["devices"].values())),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("minilm", "python", "torch", "transformers")),
    }


def _hyperparameters(recipe: DistillRecipe, plan: DistillPlan) -> _Table:
    """The values of the recipe; the number of relation heads is that in use, if there are any."""
    values = {key: value for key, value in flat_values(recipe).items() if key.startswith(_HYPERPARAMETERS)}
    values["loss.relation_heads"] = plan.relation_heads or None
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
