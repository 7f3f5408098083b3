"""Shipped recipes of text vectors and rerankers: each says where it comes from, and runs in small."""

from __future__ import annotations

import pytest

from minilm.finetune.run import finetune_once
from minilm.recipe import (
    EmbedSection,
    FinetuneRecipe,
    RerankSection,
    find_recipe,
    load_recipe,
    recipe_names,
    recipe_text,
)
from minilm.tasks.embed.settings import ROWS_OF

SECTIONS = {"embed": EmbedSection, "rerank": RerankSection}
NAMES = {kind: [name for name in recipe_names() if name.startswith(f"{kind}/")] for kind in SECTIONS}


def losses_of(kind):
    return {load_recipe(find_recipe(name), kind=FinetuneRecipe).recipe.task.loss for name in NAMES[kind]}


def test_all_kinds_of_rows_have_a_recipe():
    assert {ROWS_OF[loss] for loss in losses_of("embed")} == set(ROWS_OF.values())


def test_most_losses_of_rerankers_have_a_recipe():
    assert losses_of("rerank") == {"bce", "mse", "margin_mse", "lambda"}


@pytest.mark.parametrize("name", [*NAMES["embed"], *NAMES["rerank"]])
def test_a_recipe_runs_in_small(name, tiny_task):
    first, _, comment = recipe_text(name).partition("\n\n")[0].partition("\n")
    assert first.startswith("# ")
    assert "# Source: " in comment or "# Needs: " in comment
    kind, _, own = name.partition("/")
    write = {"embed": tiny_task.embed_recipe, "rerank": tiny_task.rerank_recipe}[kind]
    found = load_recipe(find_recipe(name), kind=FinetuneRecipe).recipe
    has_teacher = found.task.teacher is not None
    tiny = load_recipe(write(scored=not has_teacher), kind=FinetuneRecipe).recipe
    teacher = tiny_task.model if kind == "embed" else tiny_task.write_classifier("teacher", seed=3, num_labels=1)
    assert isinstance(found.task, SECTIONS[kind])
    assert (found.name, found.out) == (own, f"runs/{own}")
    overrides = [
        f"model={tiny_task.model}",
        f"out={tiny_task.folder / 'run'}",
        f"task.train=[{tiny.task.train[0]}]",
        f"task.dev=[{tiny.task.dev[0]}]",
        "task.max_tokens=32",
        "train.steps=2",
        "train.batch_size=4",
        *([f"task.teacher={teacher}"] if has_teacher else []),
        *(["student.teacher_layers=[1, 3]"] if found.student else []),
    ]
    small = load_recipe(find_recipe(name), overrides, kind=FinetuneRecipe).recipe
    assert finetune_once(small, resolved="").steps == 2
