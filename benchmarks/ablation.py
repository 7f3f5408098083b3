"""The paper's ablation on real text: what each objective teaches small students, measured by fine-tuning on GLUE.

The teacher is the embedded model, itself the ceiling. Three students per objective share one teacher pass: three layers
of width 384, at random and as layers 2, 4 and 6 of the teacher, and six layers of width 192 at random; `none` are the
same students before their first step. All objectives read the same documents in the same order. Fine-tuning has one
setting for all, and each run counts with its best epoch; as many runs as there are cores go side by side, with a thread
each. What the file has already is not repeated, and what was interrupted resumes, so this script can be stopped and
restarted at any time.

    python benchmarks/ablation.py --text text/*.jsonl.gz --glue glue --work ablation \
        --json benchmarks/results/ablation/MACHINE.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ab import machine
from training import ready

from minilm.distill.plan import DistillPlan, plan_distillation
from minilm.distill.run import build_once, distill
from minilm.distill.student import make_student, save_student
from minilm.embedded import embedded_model
from minilm.files.json import read_json, write_json
from minilm.finetune.sweep import finetune
from minilm.infer.engines.threads import usable_threads
from minilm.recipe import DistillRecipe, FinetuneRecipe, Loaded, find_recipe, flat_values, load_recipe
from minilm.train.allocator import keep_freed_memory
from minilm.train.metrics import read_metrics

TEACHER, UNTRAINED = "teacher", "none"
# Objective -> its section of the recipe.
OBJECTIVES: Mapping[str, Mapping[str, object]] = {
    "v2": {"version": "v2", "relation_heads": 48},
    "v1": {"version": "v1"},
    "v1 attention": {"version": "v1", "pairs": {"query-key": 1}},
    "mlm": {"objective": "mlm"},
}
STUDENTS = [
    {"name": "l3-h384-random", "num_layers": 3, "hidden_size": 384, "num_heads": 12},
    {"name": "l3-h384-layers", "init": "layers", "teacher_layers": [2, 4, 6]},
    {"name": "l6-h192-random", "num_layers": 6, "hidden_size": 192, "num_heads": 12},
]
# Task -> epochs: of SST-2, eight times as large as any other, a part of one.
TASKS = {"CoLA": 3.0, "MRPC": 3.0, "RTE": 3.0, "STS-B": 3.0, "SST-2": 0.3}
BATCH, MAX_TOKENS, HELDOUT = 64, 128, 256
DISTILL_RATE, FINETUNE_RATE = 6e-4, 1e-4


def main() -> None:
    """Distill and fine-tune what is missing, and store it, run by run."""
    options, stored = begin(evidence_parser(__doc__, steps=200))
    models = {(TEACHER, TEACHER): embedded_model(), **dict(distilled(options, stored))}
    named = [({"objective": objective, "student": student}, folder) for (objective, student), folder in models.items()]
    score_all(named, TASKS, options, stored)


def evidence_parser(doc: str | None, *, steps: int) -> argparse.ArgumentParser:
    """The options of every script that distills on text and scores on GLUE."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--glue", type=Path, required=True, help="folder with one folder per task (MRPC/train.tsv)")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    return parser


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Stored]:
    """The options and the file of results, in a process that is ready to train."""
    options = ready(parser)
    return options, Stored(options.json, command=" ".join(["python", *sys.argv]))


def score_all(
    models: Iterable[tuple[Mapping[str, str], Path]],
    tasks: Mapping[str, float],
    options: argparse.Namespace,
    stored: Stored,
) -> None:
    """Fine-tune each model on each task with each seed, and store the scores that are missing.

    The batches are small: processes with one thread do about 1.5 times as many as one process with all threads.

    Args:
        models: what names a model in the file, and its folder.
        tasks: name -> epochs.
        options: of the command line.
        stored: the file.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_threads(), mp_context=spawn, initializer=keep_freed_memory) as pool:
        runs = {}
        for seed, (task, epochs), (names, folder) in itertools.product(options.seeds, tasks.items(), models):
            key = {**names, "task": task, "seed": seed}
            if not stored.has(key):
                out = options.work / "glue" / "-".join(map(str, key.values())).replace(" ", "-")
                run = pool.submit(score, folder, options.glue / task, out, epochs, seed, options.precision)
                runs[run] = key
        for run in as_completed(runs):
            stored.add({**runs[run], "score": run.result()})


class Stored:
    """The file of results: what was distilled, and a score for each model, task and seed."""

    def __init__(self, file: Path, *, command: str) -> None:
        self._file = file
        start: dict[str, Any] = {"distilled": {}, "scores": []}
        self.content = read_json(file) if file.exists() else start
        self.content |= {"machine": machine(), "command": command}

    def has(self, key: Mapping[str, object]) -> bool:
        """Whether there is a score of this run."""
        return any(key.items() <= row.items() for row in self.content["scores"])

    def add(self, row: Mapping[str, object]) -> None:
        """Store a score."""
        self.content["scores"].append(row)
        self.write()
        print(row, flush=True)

    def write(self) -> None:
        """Write the file."""
        write_json(self._file, self.content)


def distilled(options: argparse.Namespace, stored: Stored) -> Iterator[tuple[tuple[str, str], Path]]:
    """The folder of each objective and student; distills what is missing."""
    common = recipe_of(options, "plan", {"inputs": [str(path) for path in options.text]}, OBJECTIVES["v2"])
    plan = plan_distillation(common.recipe, tokenizer=embedded_model())
    corpus = build_once(common.recipe.data, options.work, plan)
    for name, folder in untrained(plan, options.work, seed=common.recipe.seed):
        yield (UNTRAINED, name), folder
    for objective, section in OBJECTIVES.items():
        out = options.work / objective.replace(" ", "-")
        loaded = recipe_of(options, str(out), {"corpus": str(corpus)}, section)
        result = distill(loaded)
        manifest = result.shards.manifest
        stored.content["corpus"] = {"documents": manifest.documents, "tokens": manifest.tokens}
        stored.content["distilled"][objective] = {
            "loss": section,
            "steps": loaded.recipe.train.steps,
            "precision": options.precision,
            "documents": loaded.recipe.train.steps * BATCH,
            "tokens": round(loaded.recipe.train.steps * BATCH * manifest.tokens / manifest.documents),
            "held out": dict(result.metrics),
        }
        stored.write()
        yield from (((objective, name), folder) for name, folder in result.folders.items())


def untrained(plan: DistillPlan, work: Path, *, seed: int) -> Iterator[tuple[str, Path]]:
    """The folder of each student before its first step; writes what is missing."""
    for name, start in plan.students.items():
        folder = work / UNTRAINED / name
        if not folder.is_dir():
            student = make_student(start, teacher=plan.teacher, seed=seed)
            save_student(student, folder, teacher=plan.teacher, tokenizer=plan.tokenizer, card="")
        yield name, folder


def recipe_of(
    options: argparse.Namespace, out: str, data: Mapping[str, object], loss: Mapping[str, object]
) -> Loaded[DistillRecipe]:
    """A distillation of the three students."""
    file = options.work / "ablation.yaml"
    recipe: dict[str, Any] = {
        "kind": "distill",
        "name": "ablation",
        "out": out,
        "data": {"max_tokens": MAX_TOKENS, "heldout_documents": HELDOUT},
        "teacher": {"model": "embedded"},
        "students": STUDENTS,
        "train": {
            "steps": options.steps,
            "warmup_steps": options.steps // 10,
            "batch_size": BATCH,
            "learning_rate": DISTILL_RATE,
            "precision": options.precision,
            "checkpoint_every": 50,
        },
    }
    recipe["data"] |= data
    recipe["loss"] = loss
    file.write_text(json.dumps(recipe))
    return load_recipe(file, [], kind=DistillRecipe)


def score(model: Path, task: Path, out: Path, epochs: float, seed: int, precision: str) -> float:
    """Fine-tune a model on the files of a task, or resume that; the main metric of its best epoch.

    The run folder `out` is removed at the end: hundreds of them would fill a disk.
    """
    train, dev = (str(next(task.glob(f"{part}.tsv*"))) for part in ("train", "dev"))
    settings: dict[str, object] = {
        "model": str(model),
        "out": str(out),
        "seed": seed,
        "task.train": [train],
        "task.dev": [dev],
        "train.epochs": epochs,
        "train.learning_rate": FINETUNE_RATE,
        "train.precision": precision,
        "sweep": None,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    recipe = load_recipe(find_recipe(f"glue/{task.name.lower()}-bert-base"), overrides, kind=FinetuneRecipe).recipe
    metric = finetune(Loaded(recipe=recipe, origins=dict.fromkeys(flat_values(recipe), "benchmark")))[0].metric
    best = max(row[metric] for row in read_metrics(out) if metric in row)
    shutil.rmtree(out)
    return best / 100


if __name__ == "__main__":
    main()
