"""`minilm finetune` gives the same model, scores and predictions with one and two processes."""

from __future__ import annotations

import json
import random

import pytest

from minilm.files.json import read_json
from minilm.train.metrics import read_metrics

TIMES = {"tokens_per_second", "seconds", "memory_gib"}


def write_rows(path, draw, count):
    """Texts of 3 to 30 words; the label states whether they contain a certain word."""
    rows = []
    for _ in range(count):
        words = draw.choices([f"word{number}" for number in range(95)], k=draw.randint(3, 30))
        label = draw.choice(["with", "without"])
        rows.append({"text": " ".join([*words, "word7"] if label == "with" else words), "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe(squad_files, tmp_path):
    """`recipe(out)` trains Microsoft's model files for 12 steps of 8 texts and scores three times."""
    draw = random.Random(2)
    write_rows(tmp_path / "train.jsonl", draw, 60)
    write_rows(tmp_path / "dev.jsonl", draw, 41)
    names = {"model": squad_files.model, "config": squad_files.config, "tokenizer": squad_files.vocab}

    def write(out):
        files = {"train": [str(tmp_path / "train.jsonl")], "dev": [str(tmp_path / "dev.jsonl")]}
        task = {"kind": "text", "name": "seven", **files}
        often = {"eval_every": 4, "log_every": 4, "tokens_per_batch": 128}
        values = {
            "kind": "finetune",
            "name": "two",
            "out": str(out),
            **{name: str(path) for name, path in names.items()},
            "task": {**task, "max_tokens": 40},
            "train": {"steps": 12, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 2, **often},
        }
        path = tmp_path / f"{out.name}.yaml"
        path.write_text(json.dumps(values))
        return str(path)

    return write


def test_one_process_equals_two(recipe, finish, largest_difference, tmp_path):
    """The table is printed once; weights agree to 1e-5, except key biases, whose gradient is 0 up to rounding."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    command = ["-m", "minilm.cli.app", "finetune"]
    first = finish([*command, recipe(alone)])
    second = finish([*command, recipe(shared)], by="torch.distributed.run")
    assert first.replace(str(alone), "") == second.replace(str(shared), "")
    assert largest_difference(alone / "model", shared / "model", besides=("self.key.bias",)) < 1e-5
    predicted = [
        [json.loads(line) for line in (out / "predictions" / "dev.jsonl").read_text().split("\n") if line]
        for out in (alone, shared)
    ]
    for one, other in zip(*predicted, strict=True):
        assert one.pop("scores") == pytest.approx(other.pop("scores"), abs=2e-6)  # rounded to 1e-6
        assert one == pytest.approx(other, abs=2e-6)
    assert read_json(shared / "result.json")["best_step"] == read_json(alone / "result.json")["best_step"]
    rows = [[{key: row[key] for key in row.keys() - TIMES} for row in read_metrics(out)] for out in (alone, shared)]
    assert len(rows[0]) == len(rows[1]) == 3
    for ours, theirs in zip(*rows, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert rows[0][-1]["loss"] < rows[0][0]["loss"]


@pytest.mark.parametrize("loss", ["infonce", "margin_mse", "similarities"])
def test_text_vectors_are_the_same_with_one_process_and_two(loss, tiny_task, finish, largest_difference):
    """With dropout and in parts; the negatives are those of both processes."""
    first, second = (
        tiny_task.embed_recipe(loss, out, name=f"{out}.yaml", steps=6, eval_every=3, tokens_per_batch=40)
        for out in ("alone", "shared")
    )
    finish(["-m", "minilm.cli.app", "finetune", str(first)])
    finish(["-m", "minilm.cli.app", "finetune", str(second)], by="torch.distributed.run")
    alone, shared = tiny_task.folder / "alone", tiny_task.folder / "shared"
    assert largest_difference(alone / "model", shared / "model", besides=("self.key.bias",)) < 1e-5
    rows = [[row["loss"] for row in read_metrics(out)] for out in (alone, shared)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "lambda"])
def test_a_reranker_is_the_same_with_one_process_and_two(loss, tiny_task, finish, largest_difference):
    """With dropout, and lists that are longer than a batch; the scores of mse are stored, by one process or by two.

    With its usual eps, Adam turns the rounding errors of gradients that are 0 into full steps.
    """
    first, second = (
        tiny_task.rerank_recipe(
            loss,
            out,
            name=f"{out}.yaml",
            task={"teacher": str(tiny_task.model), "cache": str(tiny_task.folder / out / "cache")}
            if loss == "mse"
            else {},
            scored=False,
            steps=6,
            eval_every=3,
            tokens_per_batch=40,
            adam_eps=1e-3,
        )
        for out in ("alone", "shared")
    )
    finish(["-m", "minilm.cli.app", "finetune", str(first)])
    finish(["-m", "minilm.cli.app", "finetune", str(second)], by="torch.distributed.run")
    alone, shared = tiny_task.folder / "alone", tiny_task.folder / "shared"
    assert largest_difference(alone / "model", shared / "model", besides=()) < 1e-5
    rows = [[row["loss"] for row in read_metrics(out)] for out in (alone, shared)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)
