"""An epoch of distillation that computes its teacher beside one that reads it from a cache, in turn in one process.

The teacher is of BERT-Base's shape with random weights (student L6-H384), or the embedded model (student of 3 layers).
Documents are docstrings of at most 128 tokens. Sides differ in the teacher alone: the same documents, students and
updates, A B A B, in bf16 too where the processor has it. `share` is that of the teacher in a step that computes it, and
`limit` the ratio that a cache without any cost would have. `fill_seconds` are spent once, before the first epoch.
`ab.py` drops rounds in which other processes took the processors.

    python benchmarks/teacher_cache.py --json benchmarks/results/teacher_cache/MACHINE.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from ab import interleaved, json_file, machine, show
from texts import documents
from transformers import BertConfig, BertModel

from minilm.corpus.build import build_shards
from minilm.corpus.shards import Shards
from minilm.distill.cache_filling import Filling
from minilm.distill.criteria import make_criterion
from minilm.distill.measure import Clocked
from minilm.distill.objective import DistillObjective
from minilm.distill.room import Room
from minilm.distill.run import load_models, make_objective
from minilm.distill.stages import planned
from minilm.distill.teacher_cache import cached_teacher
from minilm.embedded import embedded_model
from minilm.files.json import write_json
from minilm.model.precision import has_bf16
from minilm.recipe import Distillation, DistillRecipe, load_recipe
from minilm.text.tokenizer import Tokenizer
from minilm.train.allocator import keep_freed_memory
from minilm.train.distributed import ALONE
from minilm.train.loop import accumulate_in
from minilm.train.optim import make_optimizer

DOCUMENTS, BATCH, LONGEST, ROUNDS = 192, 64, 128, 5
STUDENTS = {"BERT-Base shape": {"preset": "L6-H384"}, "embedded": {"num_layers": 3}}


def main() -> None:
    """Measure both teachers in both precisions of training and of the cache; print a line per row and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    file = json_file(parser, options.json)
    keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory() as name, teachers(Path(name)) as folders:
        for teacher, folder in folders.items():
            for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
                rows += compare(teacher, recipe_of(Path(name), folder, STUDENTS[teacher], precision))
    write_json(file, {"machine": machine(), "rows": rows})


@contextmanager
def teachers(folder: Path) -> Iterator[dict[str, Path]]:
    """The folders of both teachers, which share a tokenizer, and a corpus beside them."""
    torch.manual_seed(0)
    base = folder / "base"
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(base)
    Tokenizer.load(embedded_model()).save(base)
    text = folder / "text.txt"
    lines = (" ".join(one.split()) for one in documents()[:DOCUMENTS])
    text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    build_shards([text], tokenizer=base, out=folder / "shards", max_tokens=LONGEST)
    yield {"BERT-Base shape": base, "embedded": embedded_model()}


def recipe_of(folder: Path, teacher: Path, student: dict[str, object], precision: str) -> Path:
    """Write a recipe with a cache."""
    values = {
        "kind": "distill",
        "name": "benchmark",
        "out": str(folder / "run"),
        "data": {"corpus": str(folder / "shards"), "max_tokens": LONGEST, "heldout_documents": 0},
        "teacher": {"model": str(teacher)},
        "cache": {"precision": "bf16"},
        "students": [student],
        "train": {"steps": 1, "batch_size": BATCH, "learning_rate": 1e-4, "precision": precision},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


class Side:
    """One student with its optimizer, and where its teacher's relations come from."""

    def __init__(self, recipe: DistillRecipe, objective: DistillObjective, *, clock: Clocked, steps: int) -> None:
        self.recipe, self.objective, self.clock, self.steps = recipe, objective, clock, steps
        self.optimizer = make_optimizer(objective.parameters, recipe.train)
        self.losses: list[float] = []
        self.shares: list[float] = []
        """Of the teacher, in each epoch."""

    def epoch(self) -> None:
        """As many updates as the corpus gives; dropout as in a run."""
        started, before = time.perf_counter(), self.clock.seconds
        for _ in range(self.steps):
            self.optimizer.zero_grad(set_to_none=True)
            batch = self.objective.batch(len(self.losses))
            loss = accumulate_in(self.recipe.train.precision, self.objective, batch)
            self.optimizer.step()
            self.losses.append(float(loss.value))
        self.shares.append((self.clock.seconds - before) / (time.perf_counter() - started))


def side_of(path: Path, cache: str) -> tuple[Side, dict[str, object]]:
    """A side with that cache, filled now, or with `none`; and what is known before its first step."""
    override = "cache=null" if cache == "none" else f"cache.precision={cache}"
    with planned(load_recipe(path, [override], kind=Distillation)) as [stage]:
        recipe = stage.recipe
        shards = Shards.open(Path(recipe.data.corpus or ""))
        teacher, students, plan = load_models(recipe, stage.plan, "cpu")
    assert teacher is not None
    facts: dict[str, object] = {"engine": teacher.engine, "tokens": shards.manifest.tokens}
    cached = cached_teacher(
        recipe, plan, shards.manifest, shards.lengths, computed_by=teacher.computed_by, device="cpu"
    )
    if cached is not None and recipe.cache is not None:
        started = time.perf_counter()
        found = Filling(cached, teacher, shards, name="teacher", device="cpu", ranks=ALONE).run(recipe.cache, Room())
        facts["fill_seconds"] = time.perf_counter() - started
        size = sum(file.stat().st_size for file in cached.folder.iterdir())
        facts |= {"bytes_per_token": size / found.tokens, "relation_loss": found.relation_loss}
        facts["row_error"] = found.row_error
    clock = Clocked(make_criterion(recipe, plan, cached or teacher, students))
    objective = make_objective(recipe, plan, clock, shards, device="cpu")
    return Side(recipe, objective, clock=clock, steps=len(shards) // BATCH), facts


def compare(teacher: str, path: Path) -> list[dict[str, object]]:
    """Seconds of an epoch with the teacher, and with each cache."""
    made = {cache: side_of(path, cache) for cache in ("none", "bf16", "int8")}
    sides = {cache: side for cache, (side, _) in made.items()}
    seconds = interleaved({cache: side.epoch for cache, side in sides.items()}, repetitions=ROUNDS)
    plain = sides["none"]
    share = statistics.median(plain.shares[1:])
    rows: list[dict[str, object]] = [
        {
            "teacher": teacher,
            "precision": plain.recipe.train.precision,
            "cache": cache,
            "seconds": seconds[cache],
            "share": share,
            "limit": 1 / (1 - share),
            "ratio": seconds["none"] / seconds[cache],
            "loss_difference": abs(sides[cache].losses[0] / plain.losses[0] - 1),
            **made[cache][1],
        }
        for cache in sides
    ]
    show(rows)
    return rows


if __name__ == "__main__":
    main()
