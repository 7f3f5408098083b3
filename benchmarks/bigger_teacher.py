"""A teacher of base size into L6-H384 on real text, with and without an assistant; scores over the tokens read.

The teacher is any folder with 12 layers of width 768, such as all-mpnet-base-v2; the students start at random and have
its tokenizer and position ids. Losses are those of v2. Both ways read the same documents in the same order, for the
same number of steps in each stage, and share the stored relations of the teacher. While they are distilled, copies of
the students are fine-tuned on a part of SST-2 (`curve`); at the end whole tasks are, with several seeds (`scores`;
`none` is the student before its first step). What the file has already is not repeated, and an interrupted distillation
resumes, so this script can be stopped and restarted at any time.

    python benchmarks/bigger_teacher.py --teacher all-mpnet-base-v2 --text text/*.jsonl.gz --glue glue --work mpnet \
        --json benchmarks/results/bigger_teacher/MACHINE.json
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ablation import MAX_TOKENS, UNTRAINED, Stored, begin, evidence_parser, score_all, untrained

from minilm.distill.chain import run_distillation
from minilm.distill.plan import plan_distillation
from minilm.distill.run import build_once
from minilm.files.atomic import atomic_write
from minilm.finetune.probe import GlueProbe
from minilm.recipe import ChainRecipe, Distillation, DistillRecipe, Loaded, load_recipe
from minilm.train.folder import STAGES
from minilm.train.metrics import read_metrics

STUDENT = {"name": "student", "preset": "L6-H384"}
ASSISTANT = {"name": "assistant", "preset": "L12-H384"}
WAYS: dict[str, list[list[dict[str, str]]]] = {"direct": [[STUDENT]], "by an assistant": [[ASSISTANT], [STUDENT]]}
PROBE = "sst-2"
TASKS = {"MRPC": 3.0, "STS-B": 3.0, "SST-2": 0.3}
BATCH, HELDOUT, RATE = 32, 256, 6e-4


def main() -> None:
    """Distill and fine-tune what is missing, and store it, run by run."""
    parser = evidence_parser(__doc__, steps=1500)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--every", type=int, default=40, metavar="N", help="read every Nth document")
    options, stored = begin(parser)
    models = [({"student": name}, folder) for name, folder in distilled(options, stored)]
    score_all(models, TASKS, options, stored)


def sample(options: argparse.Namespace) -> Path:
    """A file with every Nth document of the text, so that the teacher's relations fit a disk."""
    out: Path = options.work / f"one-in-{options.every}.jsonl"
    if not out.exists():
        atomic_write(out, "".join(itertools.islice(lines_of(options.text), 0, None, options.every)))
    return out


def lines_of(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of compressed files."""
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from file


def distilled(options: argparse.Namespace, stored: Stored) -> Iterator[tuple[str, Path]]:
    """The folder of the student before its first step, and after each way; distills what is missing."""
    single = recipe_of(options, "plan", {"inputs": [str(sample(options))]}, WAYS["direct"]).recipe
    assert isinstance(single, DistillRecipe)
    plan = plan_distillation(single, tokenizer=options.teacher)
    corpus = build_once(single.data, options.work, plan)
    for _, folder in untrained(plan, options.work, seed=single.seed):
        yield UNTRAINED, folder
    for way, stages in WAYS.items():
        out = options.work / way.replace(" ", "-")
        loaded = recipe_of(options, str(out), {"corpus": str(corpus)}, stages)
        result = run_distillation(loaded, make_probe=GlueProbe)
        manifest = result.shards.manifest
        stored.content["corpus"] = {"documents": manifest.documents, "tokens": manifest.tokens}
        is_chain = isinstance(loaded.recipe, ChainRecipe)
        folders = [out / STAGES / str(number + 1) for number in range(len(stages))] if is_chain else [out]
        stored.content["distilled"][way] = {
            students[0]["name"]: {"steps": options.steps, "curve": curve(folder, students[0]["name"])}
            for students, folder in zip(stages, folders, strict=True)
        }
        stored.content["held out"] = {**stored.content.get("held out", {}), way: dict(result.metrics)}
        stored.write()
        yield way, result.folders["student"]


def curve(run: Path, student: str) -> list[dict[str, float]]:
    """The tokens read at each held-out loss, with that and what the probe found."""
    tokens, points = 0.0, []
    for row in read_metrics(run):
        tokens += row["tokens"]
        wanted = (f"{student}.heldout_loss", f"{student}.{PROBE}.")
        found = {key.removeprefix(f"{student}."): value for key, value in row.items() if key.startswith(wanted)}
        if found:
            points.append({"step": row["step"], "tokens": tokens, **found})
    return points


def recipe_of(
    options: argparse.Namespace, out: str, data: dict[str, object], stages: list[list[dict[str, str]]]
) -> Loaded[Distillation]:
    """The distillation of one way."""
    file: Path = options.work / "recipe.yaml"
    train, dev = (str(next((options.glue / "SST-2").glob(f"{part}.tsv*"))) for part in ("train", "dev"))
    every = options.steps // 6
    recipe: dict[str, object] = {
        "kind": "distill",
        "name": "bigger-teacher",
        "out": out,
        "data": {"max_tokens": MAX_TOKENS, "heldout_documents": HELDOUT, **data},
        "teacher": {"model": str(options.teacher)},
        "loss": {"version": "v2", "relation_heads": 48},
        "cache": {"folder": str(options.work / "teacher")},
        "probe": {"task": PROBE, "train": train, "dev": dev, "every": every, "max_rows": 6400, "steps": 200},
        "train": {
            "steps": options.steps,
            "warmup_steps": options.steps // 10,
            "batch_size": BATCH,
            "learning_rate": RATE,
            "precision": options.precision,
            "log_every": 10,
            "eval_every": every,
            "checkpoint_every": 50,
        },
    }
    if len(stages) == 1:
        recipe["students"] = stages[0]
    else:
        recipe["stages"] = [{"students": students} for students in stages]
    file.write_text(json.dumps(recipe))
    return load_recipe(file, [], kind=Distillation)


if __name__ == "__main__":
    main()
