"""`minilm quickstart`: distill a 3-layer student, fine-tune teacher and students, compare them; then text vectors.

In: installed text (or the user's files) and the embedded teacher. Out: a folder with the run folders and
`summary.json`; two tables with a row each for the teacher, the distilled student and the same student without
distillation: one of a classification task, one of text vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from minilm.corpus.shards import Shards
from minilm.distill.criteria import load_teacher_for, make_criterion
from minilm.distill.measure import measure_speed
from minilm.distill.plan import DistillPlan, open_corpus, plan_distillation
from minilm.distill.run import build_once, distill, make_objective
from minilm.distill.shapes import compared_layers
from minilm.distill.student import make_student, save_student
from minilm.embedded import embedded_model
from minilm.files.atomic import atomic_write, make_folder
from minilm.files.json import write_json
from minilm.finetune.run import finetune_once
from minilm.infer.api import load
from minilm.model.checkpoint import read_model
from minilm.quickstart.speeds import texts_per_second
from minilm.quickstart.text import Labelled, QuickstartText
from minilm.quickstart.vectors import DISTILLED, TEACHER, UNDISTILLED, VectorsRow, compare_vectors
from minilm.recipe import DistillRecipe, FinetuneRecipe, Loaded, find_recipe, load_recipe, resolved_yaml
from minilm.report.page import write_report
from minilm.train.folder import RECIPE
from minilm.train.metrics import read_metrics

_DISTILL_SECONDS = 60.0  # of distillation: all of both tables is about four minutes on two cores
_LEAST_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table of the classification task."""

    name: str
    parameters: int
    megabytes: float
    sentences_per_second: float
    heldout_loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The rows of both tables, each in the order teacher, distilled, not distilled."""

    rows: Sequence[Row]
    vectors: Sequence[VectorsRow]


def quickstart(text: QuickstartText, out: Path, *, seed: int = 42) -> Tables:
    """Run all steps below `out`; after an interruption, a call with the same text and seed resumes.

    Raises:
        SystemProblem: the embedded teacher or transformers is not installed.
        Interrupted: Ctrl-C; finished steps are kept.
    """
    make_folder(out)
    teacher = embedded_model()
    file = out / "text.jsonl"
    atomic_write(file, "".join(json.dumps({"text": paragraph}) + "\n" for paragraph in text.unlabelled))
    heldout = min(256, len(text.unlabelled) // 5)
    settings = {"out": str(out / "distill"), "data.heldout_documents": heldout, "seed": seed}
    from_text = _load_recipe({**settings, "data.inputs.0": str(file)}).recipe
    plan = plan_distillation(from_text, tokenizer=teacher)
    settings |= {"data.inputs": [], "data.corpus": str(build_once(from_text.data, out, plan))}
    steps = _num_steps(_load_recipe(settings).recipe, plan)
    loaded = _load_recipe({**settings, "train.steps": steps})
    recipe = loaded.recipe
    result = distill(loaded)
    [(student, start)] = plan.students.items()
    undistilled = make_student(start, teacher=teacher, seed=recipe.seed)
    card = "The quickstart's student before its first training step, for comparison.\n"
    save_student(undistilled, out / "undistilled", teacher=teacher, tokenizer=plan.tokenizer, card=card)
    folders = {TEACHER: teacher, DISTILLED: result.folders[student], UNDISTILLED: out / "undistilled"}
    losses = _heldout_losses(recipe, plan, folders, result.shards)
    rows = _rows(text, folders, losses, out, seed)
    texts = [row.text for row in text.heldout]
    vectors = compare_vectors(text.unlabelled, texts, out, teacher=teacher, start=folders[UNDISTILLED], seed=seed)
    tables = Tables(rows=rows, vectors=vectors)
    write_json(out / "summary.json", asdict(tables))
    _report(text, tables, out)
    return tables


def _rows(
    text: QuickstartText, folders: Mapping[str, Path], losses: Mapping[str, float], out: Path, seed: int
) -> list[Row]:
    """Fine-tune each model on the task, and measure it."""
    _write_labelled(text.train, text.labels, out / "train.jsonl")
    _write_labelled(text.heldout, text.labels, out / "heldout.jsonl")
    accuracies = {name: _fine_tune(name, folder, text, out, seed) for name, folder in folders.items()}
    texts = [row.text for row in text.heldout]
    sides = {name: partial(load(folder).encode, texts) for name, folder in folders.items()}
    speeds = texts_per_second(sides, num_texts=len(texts))
    return [
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


def _load_recipe(overrides: Mapping[str, object]) -> Loaded[DistillRecipe]:
    settings = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    return load_recipe(find_recipe("distill/quickstart"), settings, kind=DistillRecipe)


def _num_steps(recipe: DistillRecipe, plan: DistillPlan) -> int:
    """The steps that fit into `_DISTILL_SECONDS` here, at least `_LEAST_STEPS`; once a run has begun, its own."""
    begun = Path(recipe.out) / RECIPE
    if begun.is_file():
        return load_recipe(begun, [], kind=DistillRecipe).recipe.train.steps
    shards = open_corpus(recipe, Path(recipe.data.corpus or ""), plan, verify=False)
    speed = measure_speed(recipe, plan, shards, label="measure a step")
    seconds = speed.of_step(recipe.train.batch_size * float(shards.lengths.mean()))
    return max(_LEAST_STEPS, int(_DISTILL_SECONDS / seconds))


def _heldout_losses(
    recipe: DistillRecipe, plan: DistillPlan, folders: Mapping[str, Path], shards: Shards
) -> dict[str, float]:
    """Distillation loss of each model against the teacher, on the held-out documents."""
    encoders = {str(number): read_model(path).encoder for number, path in enumerate(folders.values())}
    layers = compared_layers(recipe.loss, plan.sizes, {name: one.config for name, one in encoders.items()})
    plan = replace(plan, layers=layers)
    criterion = make_criterion(recipe, plan, load_teacher_for(recipe, plan, "cpu"), encoders)
    found = make_objective(recipe, plan, criterion, shards, device="cpu").evaluate()
    return {name: found[f"{number}.heldout_loss"] for number, name in enumerate(folders)}


def _fine_tune(name: str, folder: Path, text: QuickstartText, out: Path, seed: int) -> float:
    """Train a classifier on the labeled paragraphs and return its held-out accuracy; all models use equal settings."""
    values = {
        "model": str(folder),
        "out": str(out / ("fine-tune-" + name.replace(", ", "-").replace(" ", "-"))),
        "task.train": [str(out / "train.jsonl")],
        "task.dev": [str(out / "heldout.jsonl")],
        "task.labels": text.labels,
        "seed": seed,
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    loaded = load_recipe(find_recipe("text/quickstart"), settings, kind=FinetuneRecipe)
    result = finetune_once(loaded.recipe, resolved=resolved_yaml(loaded), label=f"fine-tune {name}")
    return result.main / 100


def _write_labelled(rows: Sequence[Labelled], labels: Sequence[str], file: Path) -> None:
    lines = (json.dumps({"text": row.text, "label": labels[row.label]}) + "\n" for row in rows)
    atomic_write(file, "".join(lines))


def _report(text: QuickstartText, tables: Tables, out: Path) -> None:
    """Write one page with the tables, the distillation curves, and the data used."""
    notes = [
        f"Text: {text.source}; {len(text.unlabelled)} paragraphs for distillation.",
        f"Task: {text.question} {len(text.train)} training paragraphs, {len(text.heldout)} held out.",
        f"Classes: {', '.join(text.labels)}.",
        "Text vectors: another student learned those of the teacher from the same paragraphs, without labels.",
    ]
    write_report(
        out,
        title="minilm quickstart",
        table=[asdict(row) for row in tables.rows],
        tables={"Text vectors": [asdict(row) for row in tables.vectors]},
        metrics=read_metrics(out / "distill"),
        notes=notes,
    )
