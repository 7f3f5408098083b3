"""Fine-tuning killed at any moment and restarted with the same command ends with bit-identical results."""

from __future__ import annotations

import json
import random
import signal

import pytest

pytestmark = pytest.mark.slow


def test_twelve_kills_change_no_bit(tiny_task, drive, assert_same_run):
    """Kills in steps, at random moments, while checkpoints and the best weights are written and published."""
    recipe = tiny_task.recipe(steps=50)
    unbroken = tiny_task.folder / "unbroken"
    [[_, calls]] = drive(recipe, [("never", 0)], [f"out={unbroken}"])
    draw = random.Random(3)
    plan: list[tuple[str, float]] = []
    for _ in range(4):
        plan += [
            ("call", draw.randint(10, calls // 8)),
            ("steps", draw.randint(4, 9)),
            ("within", draw.uniform(1.1, 4)),
        ]
    results = drive(recipe, [*plan, ("never", 0)])
    assert sum(status == -signal.SIGKILL for status, _ in results) >= 8
    assert results[-1][0] == 0
    assert_same_run(tiny_task.folder / "run", unbroken)
    ours, theirs = (json.loads((tiny_task.folder / name / "result.json").read_text()) for name in ("run", "unbroken"))
    assert ours["numbers"] == theirs["numbers"]
    assert (ours["best_step"], ours["steps"]) == (theirs["best_step"], theirs["steps"])


def test_a_sweep_resumes_where_it_was_killed(tiny_task, drive):
    """Finished runs are not repeated; the best model equals that of an uninterrupted sweep."""
    sweep = {"seeds": [1, 2], "learning_rate": [0.003, 0.0001]}
    recipe = tiny_task.recipe(steps=12, sweep=sweep)
    unbroken = tiny_task.folder / "unbroken"
    [[_, calls]] = drive(recipe, [("never", 0)], [f"out={unbroken}"])
    plan = [("call", calls * part // 7) for part in range(1, 7)]
    results = drive(recipe, [*plan, ("never", 0)])
    assert results[-1][0] == 0
    assert sum(status == -signal.SIGKILL for status, _ in results) >= 3
    for name in ("results.json", "model/model.safetensors", "model/task.json"):
        assert (tiny_task.folder / "run" / name).read_bytes() == (unbroken / name).read_bytes()


def test_kills_of_text_vectors_change_no_bit(tiny_task, drive, assert_same_run):
    """Kills while the teacher's vectors are stored, in steps over a whole batch, and while the model is written."""
    student = {"init": "layers", "teacher_layers": [1, 3]}
    recipe = tiny_task.embed_recipe("similarities", student=student, steps=12)
    unbroken = tiny_task.folder / "unbroken"
    [[_, calls]] = drive(recipe, [("never", 0)], [f"out={unbroken}", f"task.cache={tiny_task.folder / 'other'}"])
    plan = [("call", number) for number in (4, 7, 10, 13)]
    plan += [("call", calls * part // 6) for part in range(1, 6)] + [("steps", 2), ("steps", 4)]
    results = drive(recipe, [*plan, ("never", 0)])
    assert sum(status == -signal.SIGKILL for status, _ in results) >= 7
    assert results[-1][0] == 0
    assert_same_run(tiny_task.folder / "run", unbroken)
    (ours,) = (tiny_task.folder / "vectors-train.jsonl.teacher").iterdir()
    for file in ours.iterdir():
        assert file.read_bytes() == (tiny_task.folder / "other" / ours.name / file.name).read_bytes()


@pytest.mark.parametrize(
    "recipe_of",
    [
        lambda tiny, **train: tiny.rerank_recipe("lambda", task={"pooling": "mean"}, **train),
        lambda tiny, **train: tiny.embed_recipe("infonce", **train),
    ],
    ids=["reranker", "contrastive"],
)
def test_kills_in_steps_of_several_parts_change_no_bit(recipe_of, tiny_task, drive, assert_same_run):
    """Of lists, some longer than a batch, and of pairs, which are encoded twice; and while the model is written."""
    recipe = recipe_of(tiny_task, steps=12, tokens_per_batch=40)
    unbroken = tiny_task.folder / "unbroken"
    [[_, calls]] = drive(recipe, [("never", 0)], [f"out={unbroken}"])
    plan = [kill for part in (8, 7, 6) for kill in (("steps", 2), ("call", calls // part))]
    results = drive(recipe, [*plan, ("never", 0)])
    assert sum(status == -signal.SIGKILL for status, _ in results) >= 4
    assert results[-1][0] == 0
    assert_same_run(tiny_task.folder / "run", unbroken)


def test_kills_while_a_teacher_scores_change_no_bit(tiny_task, drive, assert_same_run):
    """Kills between and in the files of its scores, in steps, and while the model is written."""
    task = {"teacher": str(tiny_task.write_classifier("scorer", seed=3, num_labels=1))}
    recipe = tiny_task.rerank_recipe("margin_mse", steps=6, task=task, scored=False)
    unbroken = tiny_task.folder / "unbroken"
    [[_, calls]] = drive(recipe, [("never", 0)], [f"out={unbroken}", f"task.cache={tiny_task.folder / 'other'}"])
    plan = [("call", 5), ("call", 9), ("call", calls // 2), ("steps", 2)]
    results = drive(recipe, [*plan, ("never", 0)])
    assert sum(status == -signal.SIGKILL for status, _ in results) >= 3
    assert results[-1][0] == 0
    assert_same_run(tiny_task.folder / "run", unbroken)
    (ours,) = (tiny_task.folder / "lists-train.jsonl.teacher").iterdir()
    theirs = tiny_task.folder / "other" / ours.name
    assert {file.name: file.read_bytes() for file in ours.iterdir()} == {
        file.name: file.read_bytes() for file in theirs.iterdir()
    }
    assert len(list(ours.iterdir())) > 3
