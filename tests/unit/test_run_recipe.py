"""Proves that one function runs recipes of both kinds and says where everything is."""

from __future__ import annotations

import pytest

from minilm.errors import UsageError
from minilm.recipe import load_recipe
from minilm.run_recipe import run


@pytest.mark.slow
def test_a_distillation_names_its_student_and_its_numbers(tiny):
    summary = run(load_recipe(tiny.recipe(steps=2, warmup_steps=0)))
    assert summary.folder == tiny.folder / "run"
    assert {name: path.is_dir() for name, path in summary.models.items()} == {"student": True}
    assert "student.heldout_loss" in summary.numbers


@pytest.mark.slow
def test_a_fine_tuning_names_its_best_model_and_its_numbers(tiny_task):
    summary = run(load_recipe(tiny_task.recipe(steps=2)))
    assert list(summary.models) == ["model"]
    assert (summary.models["model"] / "config.json").is_file()
    assert "accuracy" in summary.numbers


@pytest.mark.slow
def test_never_resuming_starts_a_changed_run_over(tiny_task):
    run(load_recipe(tiny_task.recipe(steps=2)))
    changed = load_recipe(tiny_task.recipe(steps=2), ["seed=7"])
    with pytest.raises(UsageError, match="seed was 42, is 7"):
        run(changed)
    assert run(changed, resume="never").numbers
