"""A finished fine-tuning run is extended by more steps or epochs; nothing else about it may change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minilm.errors import UsageError
from minilm.finetune.sweep import finetune
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.train.metrics import read_metrics
from minilm.train.schedule import linear_schedule


def run(recipe: Path, *overrides: str):
    [point] = finetune(load_recipe(recipe, overrides, kind=FinetuneRecipe))
    return point.runs[0]


@pytest.mark.slow
def test_more_epochs_extend_a_run_on_their_schedule(tiny_task, caplog):
    out, recipe = tiny_task.folder / "run", tiny_task.recipe(steps=None, epochs=1, eval_every=0, log_every=1)
    first = run(recipe)
    assert (first.steps, first.extended_at) == (8, ())
    before = read_metrics(out)
    longer = run(recipe, "train.epochs=2.5")
    assert (longer.steps, longer.extended_at) == (19, (8,))
    rows = read_metrics(out)
    assert rows[:8] == before
    expected = [0.003 * linear_schedule(step, warmup_steps=1, total_steps=19) for step in range(8, 19)]
    assert [row["learning_rate"] for row in rows[8:]] == pytest.approx(expected)
    assert "extended at step 8: " in caplog.text
    assert "19 steps (extended at step 8) of 8" in (out / "model" / "README.md").read_text()
    page = (out / "report.html").read_text()
    assert "this is not one run of 19 steps" in page
    assert json.loads((out / "result.json").read_text())["extended_at"] == [8]
    again = run(recipe, "train.epochs=2.5")  # finished: its result is read
    assert (again.steps, list(again.extended_at), again.numbers) == (19, [8], longer.numbers)


@pytest.mark.slow
def test_the_best_weights_of_the_shorter_run_stay_the_best_until_better_ones_are_found(tiny_task):
    recipe = tiny_task.recipe(steps=12)
    first = run(recipe)
    longer = run(recipe, "train.steps=18")
    measured = {row["step"]: row["accuracy"] for row in read_metrics(tiny_task.folder / "run") if "accuracy" in row}
    assert list(measured) == [6, 12, 18]
    assert longer.main == max(measured.values())
    assert longer.main >= first.main


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.steps=6"], r"train\.steps was 12, is 6\. Restore"),
        (["train.steps=18", "seed=7"], r"seed was 42, is 7; train\.steps was 12, is 18\. Restore"),
    ],
)
def test_a_shorter_run_or_another_one_is_rejected(tiny_task, overrides, message):
    recipe = tiny_task.recipe(steps=12)
    run(recipe)
    with pytest.raises(UsageError, match=message):
        run(recipe, *overrides)


def test_a_run_that_stopped_early_is_not_extended(tiny_task):
    recipe = tiny_task.recipe(steps=40, eval_every=2, patience=1, learning_rate=1e-30)
    run(recipe)
    with pytest.raises(
        UsageError, match=r"a run of 40 steps that has not finished; .* \(train\.patience may have ended"
    ):
        run(recipe, "train.steps=60")


@pytest.mark.slow
def test_another_length_in_a_sweep_is_another_setting(tiny_task):
    """A sweep keeps no checkpoints of its runs, so each length is a run of its own."""
    recipe = tiny_task.recipe(steps=2, sweep={"seeds": [1]})
    run(recipe)
    assert run(recipe, "train.steps=4").extended_at == ()
    assert len(list((tiny_task.folder / "run" / "runs").iterdir())) == 2
