"""Shipped recipes of rerankers: each says where it comes from, and runs in small."""

from __future__ import annotations

import pytest

from minilm.finetune.run import finetune_once
from minilm.recipe import FinetuneRecipe, RerankSection, find_recipe, load_recipe, recipe_names, recipe_text

NAMES = [name for name in recipe_names() if name.startswith("rerank/")]


def test_most_losses_have_a_recipe():
    losses = {load_recipe(find_recipe(name), kind=FinetuneRecipe).recipe.task.loss for name in NAMES}
    assert losses == {"bce", "mse", "margin_mse", "lambda"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_in_small(name, tiny_task):
    first, _, comment = recipe_text(name).partition("\n\n")[0].partition("\n")
    assert first.startswith("# ")
    assert "# Source: " in comment or "# Needs: " in comment
    tiny = load_recipe(tiny_task.rerank_recipe(), kind=FinetuneRecipe).recipe
    found = load_recipe(find_recipe(name), kind=FinetuneRecipe).recipe
    assert isinstance(found.task, RerankSection)
    assert (found.name, found.out) == (name.removeprefix("rerank/"), f"runs/{found.name}")
    overrides = [
        f"model={tiny_task.model}",
        f"out={tiny_task.folder / 'run'}",
        f"task.train=[{tiny.task.train[0]}]",
        f"task.dev=[{tiny.task.dev[0]}]",
        "task.max_tokens=32",
        "train.steps=2",
        "train.batch_size=4",
        *(["student.teacher_layers=[1, 3]"] if found.student else []),
    ]
    small = load_recipe(find_recipe(name), overrides, kind=FinetuneRecipe).recipe
    assert finetune_once(small, resolved="").steps == 2
