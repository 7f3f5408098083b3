"""`minilm quickstart`: distil a 3-layer student, fine-tune teacher and students, compare them in one table.

In: text that is installed (or the user's files) and the embedded teacher. Out: a folder with the run folders
and `summary.json`; one row each for the teacher, the distilled student and the same student undistilled.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from minilm import storage
from minilm.corpus.order import derived_seed
from minilm.corpus.shards import Shards
from minilm.distill.run import distill, make_objective
from minilm.distill.student import make_student, save_student
from minilm.distill.teacher import load_teacher
from minilm.embedded import embedded_model
from minilm.infer.api import load
from minilm.model.checkpoint import read_model, write_model
from minilm.model.heads import Model, new_head
from minilm.quickstart.text import Labelled, QuickstartText
from minilm.recipe import DistillRecipe, find_recipe, load_recipe
from minilm.score.report import write_report
from minilm.tasks.classification import ClassificationObjective, LabelledTexts
from minilm.text.tokenizer import Tokenizer
from minilm.train.loop import TrainSettings, train
from minilm.train.metrics import read_metrics
from minilm.train.optim import AdamWSettings

TEACHER, DISTILLED, UNDISTILLED = "teacher", "student, distilled", "student, not distilled"
# Fine-tuning, the same for all three models.
_EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _TOKENS_PER_BATCH = 3, 32, 3e-4, 4096
_ROUNDS = 3  # of the speed measurement, in turn over the models


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    parameters: int
    megabytes: float
    sentences_per_second: float
    heldout_loss: float
    accuracy: float


def quickstart(text: QuickstartText, out: Path) -> list[Row]:
    """Run everything below `out`; a second call with the same text goes on where the first was stopped.

    Raises:
        SystemProblem: the embedded teacher or transformers is missing.
        Interrupted: Ctrl-C; finished parts are kept.
    """
    storage.make_folder(out)
    teacher = embedded_model()
    tokenizer = Tokenizer.load(teacher)
    lines = (json.dumps({"text": paragraph}) + "\n" for paragraph in text.unlabelled)
    storage.atomic_write(out / "text.jsonl", "".join(lines))
    heldout = min(256, len(text.unlabelled) // 5)
    overrides = {
        "data.inputs.0": str(out / "text.jsonl"),
        "out": str(out / "distill"),
        "data.heldout_documents": heldout,
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    loaded = load_recipe(find_recipe("quickstart"), settings, kind=DistillRecipe)
    recipe = loaded.recipe
    result = distill(loaded)
    section = recipe.students[0]
    undistilled = make_student(section, teacher=teacher, tokenizer=tokenizer, seed=recipe.seed)
    card = "The student of the quickstart before its first step, for comparison.\n"
    save_student(undistilled, out / "undistilled", teacher=teacher, tokenizer=tokenizer, card=card)
    folders = {TEACHER: teacher, DISTILLED: result.folders[section.name], UNDISTILLED: out / "undistilled"}
    losses = _heldout_losses(recipe, teacher, folders, result.shards)
    accuracies = {name: _fine_tune(name, folder, text, tokenizer, recipe.seed, out) for name, folder in folders.items()}
    speeds = _speeds(folders, [row.text for row in text.heldout])
    rows = [
        Row(
            name=name,
            parameters=read_model(folder).encoder.config.num_parameters(),
            megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
            sentences_per_second=speeds[name],
            heldout_loss=losses[name],
            accuracy=accuracies[name],
        )
        for name, folder in folders.items()
    ]
    storage.write_json(out / "summary.json", {"rows": [asdict(row) for row in rows]})
    _report(text, rows, out)
    return rows


def _heldout_losses(
    recipe: DistillRecipe, teacher: Path, folders: Mapping[str, Path], shards: Shards
) -> dict[str, float]:
    """Distillation loss of each model against the teacher, on the documents that were never trained on."""
    encoders = {str(number): read_model(path).encoder for number, path in enumerate(folders.values())}
    found = make_objective(recipe, load_teacher(teacher), encoders, shards, "cpu").evaluate()
    return dict(zip(folders, found.values(), strict=True))


def _fine_tune(name: str, folder: Path, text: QuickstartText, tokenizer: Tokenizer, seed: int, out: Path) -> float:
    """Train a classifier on the labelled paragraphs; returns its held-out accuracy. Same settings for all models."""
    encoder = read_model(folder).encoder
    generator = torch.Generator().manual_seed(derived_seed(seed, "head"))
    head = new_head("classification", encoder.config, num_labels=len(text.labels), generator=generator)
    model = Model(encoder, head)
    train_texts, heldout = (_labelled(rows, tokenizer) for rows in (text.train, text.heldout))
    objective = ClassificationObjective(
        model,
        train_texts,
        heldout,
        batch_size=_BATCH_SIZE,
        tokens_per_batch=_TOKENS_PER_BATCH,
        seed=seed,
    )
    steps = int(_EPOCHS * len(text.train) / _BATCH_SIZE)
    settings = TrainSettings(
        steps=steps,
        optimizer=AdamWSettings(learning_rate=_LEARNING_RATE),
        warmup_steps=steps // 10,
        seed=seed,
        label=f"fine-tune {name}",
    )
    run_folder = out / ("fine-tune-" + name.replace(", ", "-").replace(" ", "-"))
    identity = {
        "text": _fingerprint(text),
        "model": storage.sha256_file(folder / "model.safetensors"),
        "settings": str((_EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _TOKENS_PER_BATCH, seed)),
    }
    numbers = train(objective, settings, folder=run_folder, identity=identity)
    with storage.atomic_folder(run_folder / "model", replace=True) as aside:
        write_model(model, aside, head="classification", labels=text.labels)
        tokenizer.save(aside)
    return numbers["accuracy"]


def _report(text: QuickstartText, rows: Sequence[Row], out: Path) -> None:
    """One page: the table, the distillation curves, what was learned from what."""
    notes = [
        f"Text: {text.source}; {len(text.unlabelled)} paragraphs for distillation.",
        f"Task: {text.question} {len(text.train)} paragraphs to train on, {len(text.heldout)} held out.",
        f"Classes: {', '.join(text.labels)}.",
    ]
    metrics = read_metrics(out / "distill")
    write_report(out, title="minilm quickstart", table=[asdict(row) for row in rows], metrics=metrics, notes=notes)


def _labelled(rows: Sequence[Labelled], tokenizer: Tokenizer) -> LabelledTexts:
    return LabelledTexts(
        sequences=tokenizer.encode([row.text for row in rows], max_length=128),
        labels=np.array([row.label for row in rows], dtype=np.int64),
    )


def _fingerprint(text: QuickstartText) -> str:
    return storage.sha256_text(json.dumps([[row.text, row.label] for row in (*text.train, *text.heldout)]))


def _speeds(folders: Mapping[str, Path], texts: Sequence[str]) -> dict[str, float]:
    """Sentences per second of `encode` in float32, measured in turn; the median of the rounds."""
    models = {name: load(folder) for name, folder in folders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(_ROUNDS):
        for name, model in models.items():
            started = time.perf_counter()
            model.encode(texts)
            seconds[name].append(time.perf_counter() - started)
    return {name: len(texts) / statistics.median(found) for name, found in seconds.items()}
