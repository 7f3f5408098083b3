"""A single fine-tuning run, from a recipe to a run folder.

In: a recipe without a sweep. Out: a folder with `metrics.jsonl`, `checkpoints/`, `best/`, `result.json`,
`analysis.json`, `predictions/`, `report.html`, and `model/`, the best checkpoint as a Hugging Face folder.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from minilm.embedded import model_path
from minilm.files.atomic import atomic_folder, atomic_write
from minilm.files.json import with_nulls, write_json
from minilm.files.regular import sha256_file
from minilm.files.row_writer import writing_rows
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.objective import FinetuneObjective, require_examples
from minilm.finetune.report import report_run
from minilm.finetune.result import ANALYSIS, RunResult, read_result, verdict, write_result
from minilm.finetune.smaller import Smaller, make_smaller, smaller_of
from minilm.finetune.start import StartHead, require_trainable, start_head, start_model
from minilm.finetune.task import Analysis, Task
from minilm.hub import base_name
from minilm.model.compact import whole_table
from minilm.model.config import EncoderConfig
from minilm.model.heads import Model
from minilm.model.metadata import model_checksums
from minilm.recipe import EmbedSection, FinetuneRecipe, LabelledSection, RerankSection, TextSection
from minilm.report.card import model_card
from minilm.tasks.saved import write_task
from minilm.tasks.text.glue import text_columns
from minilm.text.tokenizer import Tokenizer
from minilm.train.best import BestRule, load_best
from minilm.train.distributed import ALONE, Ranks, wait_for_first
from minilm.train.folder import RECIPE, remove_results, require_outside, run_folder
from minilm.train.loop import TrainSettings, train
from minilm.train.settings import identity_values, train_settings
from minilm.train.state import Identity, extensions, require_run
from minilm.train.tensorboard import require_tensorboard

logger = logging.getLogger(__name__)

_LENGTH = ("train.steps", "train.epochs")  # compared as a number of steps, which may grow


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A recipe with its files loaded and its derived values resolved."""

    task: Task
    tokenizer: Tokenizer
    model: Path
    config: Path | None
    shape: EncoderConfig
    head: StartHead
    smaller: Smaller | None
    steps: int
    steps_per_epoch: int
    epochs: float
    identity: Identity


def finetune_once(
    recipe: FinetuneRecipe,
    *,
    resolved: str,
    afresh: bool = False,
    ranks: Ranks = ALONE,
    label: str = "fine-tune",
    models: Path | None = None,
) -> RunResult:
    """Run a recipe to completion. Restarted after a kill, it resumes and produces bit-identical results.

    Args:
        recipe: the recipe; its sweep is ignored.
        resolved: the recipe as text with the origin of each value, stored in the run folder.
        afresh: remove the results of an earlier run and start from the first step.
        ranks: this process among the processes of the run.
        label: label of the progress line.
        models: folder for the model of each checkpoint, each a Hugging Face folder `ckpt-<step>`; None: not written.

    Raises:
        UsageError: the run folder belongs to another dataset, tokenizer, model or recipe; the message names the
            difference.
        DataError: a data file or the model cannot be used.
        SystemProblem: a file cannot be written.
        Interrupted: Ctrl-C; the state is saved.
    """
    out = Path(recipe.out)
    with run_folder(out, recipe=resolved) if ranks.is_first else contextlib.nullcontext():
        wait_for_first(ranks)
        plan = _plan(recipe)
        if ranks.is_first:
            if afresh:
                remove_results(out)
            require_run(out / "checkpoints", plan.identity, total_steps=plan.steps)
            atomic_write(out / RECIPE, resolved)
        wait_for_first(ranks)
        finished = read_result(out, plan.identity, steps=plan.steps)
        return finished if finished is not None else _run(recipe, plan, ranks, label, models)


def check_files(recipe: FinetuneRecipe, *, afresh: bool) -> list[str]:
    """Read the configuration of the model and all data files of a recipe; write nothing.

    Args:
        recipe: the recipe; its sweep is ignored.
        afresh: whether an earlier run in its folder would be removed.

    Returns:
        one sentence per finding: the model, what each set has, the length of the run.

    Raises:
        UsageError, DataError, SystemProblem: as for `finetune_once`, except for what only the weights show.
    """
    plan = _plan(recipe)
    if not afresh:
        require_run(Path(recipe.out) / "checkpoints", plan.identity, total_steps=plan.steps)
        read_result(Path(recipe.out), plan.identity, steps=plan.steps)
    head = f"; its head is replaced by a new one: {plan.head.replaced}" if plan.head.replaced else ""
    head += f"; its head is kept, {plan.head.reordered}" if plan.head.reordered else ""
    settings = _settings(recipe, plan, "")
    scored = f", scored every {settings.eval_every:,}" if settings.eval_every else ""
    return [
        f"model {plan.model}: {plan.shape.num_layers} layers, width {plan.shape.hidden_size}{head}",
        *([_described(plan.smaller)] if plan.smaller else []),
        *(f"{name}: {found}" for name, found in plan.task.contents().items()),
        f"{plan.steps:,} steps of {recipe.train.batch_size}, {plan.epochs:.3g} epochs{scored}, into {recipe.out}",
    ]


def _plan(recipe: FinetuneRecipe) -> _Plan:
    require_tensorboard(wanted=recipe.train.tensorboard)
    require_outside(recipe)
    model = model_path(recipe.model)
    config = None if recipe.config is None else Path(recipe.config)
    shape = require_trainable(model, recipe.task, config=config)
    checksums = {f"model {part}": checksum for part, checksum in model_checksums(model, config=config).items()}
    tokenizer = task_tokenizer(recipe.task, tokenizer_path(recipe.tokenizer, model), lowercase=recipe.lowercase)
    tokenizer.require_vocab_size(shape.vocab_size, where=str(model))
    smaller = None if recipe.student is None else smaller_of(recipe.student, shape, where=str(model))
    task = make_task(recipe.task, tokenizer, model=model, config=config, seed=recipe.seed)
    task.require_fit(shape if smaller is None else smaller.config)
    require_examples(task, recipe.task.train)
    section = recipe.train
    choice = recipe.task.head if isinstance(recipe.task, LabelledSection) else "auto"
    examples = task.num_examples
    steps = section.steps or math.ceil(section.epochs * examples / section.batch_size)
    files = {f"{part} file {number} {path.name}": sha256_file(path) for part, number, path in _files(recipe)}
    return _Plan(
        task=task,
        tokenizer=tokenizer,
        model=model,
        config=config,
        shape=shape,
        head=start_head(model, task, choice=choice, config=config),
        smaller=smaller,
        steps=steps,
        steps_per_epoch=math.ceil(examples / section.batch_size),
        epochs=section.epochs if section.steps is None else section.steps * section.batch_size / examples,
        identity={
            **identity_values(recipe, but=_LENGTH, but_section="sweep"),
            **files,
            **task.identity(),
            **checksums,
            "tokenizer": tokenizer.fingerprint,
            "device": _device(),
        },
    )


def _described(smaller: Smaller) -> str:
    shape = smaller.config
    return f"student: {shape.num_layers} layers, width {shape.hidden_size}, {smaller.start}"


def _files(recipe: FinetuneRecipe) -> list[tuple[str, int, Path]]:
    """The local data files with their number, from 1, since they may have one name in several folders."""
    parts = {"train": recipe.task.train, "dev": recipe.task.dev}
    named = [(part, number, Path(name)) for part, names in parts.items() for number, name in enumerate(names, 1)]
    return [one for one in named if one[2].is_file()]


def tokenizer_path(name: str | None, model: Path) -> Path:
    """Path of the tokenizer: `name` if given, else the model's folder."""
    return Path(name) if name else model if model.is_dir() else model.parent


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _run(recipe: FinetuneRecipe, plan: _Plan, ranks: Ranks, label: str, models: Path | None) -> RunResult:
    out, task = Path(recipe.out), plan.task
    task.store_teacher(ranks)
    model = start_model(plan.model, task, seed=recipe.seed, config=plan.config, head=plan.head)
    references = task.references(model.to(_device()), token_budget=recipe.train.tokens_per_batch, ranks=ranks)
    if plan.smaller is not None:
        model = make_smaller(plan.smaller, model, task, seed=recipe.seed)
    model = model.to(_device())
    model.encoder.attention_dropout = recipe.train.attention_dropout
    task.prepare(model)
    objective = FinetuneObjective(
        model,
        task,
        batch_size=recipe.train.batch_size,
        tokens_per_batch=recipe.train.tokens_per_batch,
        seed=recipe.seed,
        ranks=ranks,
    )
    if references and plan.smaller is not None:
        references["start"] = objective.evaluate()
    for name, found in references.items():
        logger.info("%s: %s: %s", label, name, ", ".join(f"{key} {value:.2f}" for key, value in found.items()))
    logger.info("%s: %d examples, %d steps, model %s", label, task.num_examples, plan.steps, plan.model)
    started = time.monotonic()
    settings = _settings(recipe, plan, label)
    on_checkpoint = None if models is None else partial(_write_checkpoint, recipe, plan, model, models)
    numbers = train(objective, settings, folder=out, identity=plan.identity, ranks=ranks, on_checkpoint=on_checkpoint)
    best_step = plan.steps
    best = load_best(out)
    if best is not None:
        best_step, numbers, weights = best
        model.load_state_dict(weights)
    analyses = objective.analyses()
    result = RunResult(
        folder=out,
        seed=recipe.seed,
        learning_rate=recipe.train.learning_rate,
        epochs=plan.epochs,
        batch_size=recipe.train.batch_size,
        main_metric=task.main_metric,
        numbers=numbers,
        best_step=best_step,
        steps=plan.steps,
        train_examples=task.num_examples,
        parameters=model.encoder.config.num_parameters(),
        seconds=time.monotonic() - started,
        extended_at=extensions(out / "checkpoints"),
        references=references,
    )
    if verdict(result):
        logger.info("%s: %s", label, verdict(result))
    if ranks.is_first:
        _write(recipe, plan, model, result, analyses)
    wait_for_first(ranks)
    return result


def _settings(recipe: FinetuneRecipe, plan: _Plan, label: str) -> TrainSettings:
    section, has_dev = recipe.train, bool(plan.task.dev_sets)
    return train_settings(
        section,
        steps=plan.steps,
        warmup_steps=section.num_warmup_steps(plan.steps),
        eval_every=(section.eval_every or plan.steps_per_epoch) if has_dev else 0,
        seed=recipe.seed,
        label=label,
        best=BestRule(metric=plan.task.main_metric, patience=section.patience) if has_dev else None,
    )


def _write(
    recipe: FinetuneRecipe, plan: _Plan, model: Model, result: RunResult, analyses: Mapping[str, Analysis]
) -> None:
    """Write model, predictions, analysis and report; `result.json` comes last because it marks the run as finished."""
    out = result.folder
    with atomic_folder(out / "model", replace=True) as aside:
        _write_model(recipe, plan, model, aside)
        atomic_write(aside / "README.md", _card(recipe, result))
    with atomic_folder(out / "predictions", replace=True) as aside:
        for name, analysis in analyses.items():
            with writing_rows(aside / f"{name}.jsonl") as write_rows:
                write_rows(analysis.predictions)
    shown = {
        name: {"tables": analysis.tables, "curves": analysis.curves, "examples": analysis.examples}
        for name, analysis in analyses.items()
    }
    write_json(out / ANALYSIS, with_nulls(shown))
    report_run(recipe, result)
    write_result(result, plan.identity)


def _write_model(recipe: FinetuneRecipe, plan: _Plan, model: Model, folder: Path) -> None:
    """Write everything needed to load the model elsewhere."""
    with whole_table(model.encoder.embeddings):
        plan.task.write(model, folder)
    limit, shape = None, model.encoder.config
    if isinstance(recipe.task, RerankSection):  # where others truncate pairs
        limit = min(recipe.task.max_tokens, shape.max_tokens)
    plan.tokenizer.save(folder, segments=shape.num_segments > 0, max_length=limit)
    if not isinstance(recipe.task, EmbedSection):  # its settings are in the files of the modules
        write_task(folder, recipe.task)


def _write_checkpoint(recipe: FinetuneRecipe, plan: _Plan, model: Model, models: Path, step: int) -> None:
    """Write the model of one checkpoint unless it exists."""
    folder = models / f"ckpt-{step}"
    if not folder.exists():
        with atomic_folder(folder) as aside:
            _write_model(recipe, plan, model, aside)


def _card(recipe: FinetuneRecipe, result: RunResult) -> str:
    numbers = "\n".join(f"- {name}: {value:.4g}" for name, value in result.numbers.items())
    points = ", ".join(map(str, result.extended_at))
    steps = f"{result.steps} steps{f' (extended at step {points})' if points else ''}"
    made = (
        f"`{Path(recipe.model).name}` fine-tuned on {recipe.task.name}: {result.train_examples:,} examples, "
        f"{steps} of {result.batch_size}, learning rate {result.learning_rate:g}, seed {result.seed}; "
        f"weights of step {result.best_step}."
    )
    return model_card(
        recipe.name,
        kind=recipe.task.kind,
        base=base_name(recipe.model),
        tags=[recipe.task.name],
        pairs=isinstance(recipe.task, TextSection) and text_columns(recipe.task).text_pair is not None,
        sections=[made, *filter(None, [verdict(result)]), *([f"Held-out data:\n\n{numbers}"] if numbers else [])],
    )
