"""Every shipped recipe parses, resolves to itself and passes `minilm distill --dry-run`."""

from __future__ import annotations

import pytest

from minilm.cli import app
from minilm.recipe import find_recipe, load_recipe, recipe_names, recipe_text

NAMES = [name for name in recipe_names() if name.startswith("distill/")]


def test_there_are_recipes():
    assert len(NAMES) >= 18


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_resolves_to_an_equal_recipe(name, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        app.main(["distill", name, "--dry-run"])
    assert caught.value.code == 0
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(capsys.readouterr().out, encoding="utf-8")
    loaded = load_recipe(find_recipe(name))
    assert load_recipe(resolved).recipe == loaded.recipe
    assert loaded.recipe.name == name.removeprefix("distill/")


@pytest.mark.parametrize("name", [name for name in NAMES if "/v" in name])
def test_a_recipe_names_its_source_and_the_published_number(name):
    text = recipe_text(name)
    assert "# Source: arXiv " in text
    assert "# Published" in text


@pytest.mark.parametrize(
    ("name", "batch_size", "learning_rate", "steps", "betas"),
    [
        ("v1-bert-base-to-l6-h768", 1024, 5e-4, 400_000, (0.9, 0.999)),
        ("v1-bert-base-to-l6-h384", 256, 3e-4, 400_000, (0.9, 0.999)),
        ("v1-base-to-l12-h384", 2048, 6e-4, 400_000, (0.9, 0.98)),
        ("v1-l12-h384-to-l6-h384", 512, 4e-4, 400_000, (0.9, 0.999)),
        ("v1-xlmr-base-to-l12-h384", 256, 3e-4, 1_000_000, (0.9, 0.999)),
        ("v1-xlmr-l12-h384-to-l6-h384", 512, 6e-4, 400_000, (0.9, 0.999)),
        ("v2-bert-base-to-l6-h768", 256, 6e-4, 400_000, (0.9, 0.999)),
    ],
)
def test_hyper_parameters_are_those_published(name, batch_size, learning_rate, steps, betas):
    train = load_recipe(find_recipe(name)).recipe.train
    assert (train.batch_size, train.learning_rate, train.steps, train.adam_betas) == (
        batch_size,
        learning_rate,
        steps,
        betas,
    )
    assert train.warmup_steps == 4000


@pytest.mark.parametrize(
    ("teacher", "layer", "heads"),
    [("bert-base", "last", 48), ("bert-large", 21, 64), ("roberta-large", 19, 64)],
)
def test_v2_layer_and_relation_heads_are_those_published(teacher, layer, heads):
    recipe = load_recipe(find_recipe(f"v2-{teacher}-to-l6-h384")).recipe
    assert (recipe.teacher.layer, recipe.loss.relation_heads) == (layer, heads)
