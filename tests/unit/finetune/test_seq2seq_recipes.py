"""Shipped seq2seq recipes: every published row has one, with the paper's numbers and the fields of the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from minilm.files.rows import read_rows
from minilm.recipe import FinetuneRecipe, find_recipe, load_recipe, recipe_names, recipe_text

NAMES = [name for name in recipe_names() if name.startswith("seq2seq/")]


def recipe(name: str) -> FinetuneRecipe:
    return load_recipe(find_recipe(name), kind=FinetuneRecipe).recipe


@pytest.mark.parametrize(
    ("name", "batch", "rates", "epochs", "lengths", "penalty", "published"),
    [
        ("xsum", 64, (1e-4, 1.5e-4), (30, 50), (464, 48), 0.9, ("40.43 / 17.72 / 32.60", "38.79 / 16.39 / 31.10")),
        ("cnndm", 64, (1e-4, 1.5e-4), (25, 25), (608, 160), 0.7, ("42.66 / 19.91 / 39.73", "41.57 / 19.21 / 38.64")),
        ("qg-du", 32, (3e-5, 8e-5), (25, 25), (464, 48), 1.3, ("21.07 / 24.09 / 49.14", "20.31 / 23.43 / 48.21")),
        ("qg-zhao", 32, (3e-5, 8e-5), (25, 25), (464, 48), 1.3, ("23.27 / 25.15 / 50.60", "22.01 / 24.24 / 49.51")),
    ],
)
def test_settings_and_published_numbers_are_the_papers(name, batch, rates, epochs, lengths, penalty, published):
    for depth, rate, number, score in zip(("l12", "l6"), rates, epochs, published, strict=True):
        found = recipe(f"{name}-{depth}")
        assert (found.train.batch_size, found.train.learning_rate, found.train.epochs) == (batch, rate, number)
        assert (found.task.max_source_tokens, found.task.max_target_tokens) == lengths
        assert (found.task.label_smoothing, found.task.target_mask_prob, found.task.mask_way) == (0.1, 0.0, "v2")
        comment = " ".join(recipe_text(f"{name}-{depth}").partition("\n\n")[0].replace("#", " ").split())
        assert score in comment
        assert f"length penalty {penalty}" in comment
        assert "Source: arXiv 2002.10957v2" in comment


def test_every_row_has_a_recipe():
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_the_files(name):
    assert recipe(name).name == name.removeprefix("seq2seq/")
    assert recipe(name).out == f"runs/{recipe(name).name}"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("xsum-l12", "xsum/train_subset.jsonl.gz"),
        ("cnndm-l6", "cnndm/train_subset.jsonl.gz"),
        ("qg-du-l12", "qg/du_train_subset.jsonl.gz"),
        ("qg-du-l12", "qg/du_dev.jsonl.gz"),
        ("qg-zhao-l6", "qg/du_test.jsonl.gz"),
    ],
)
def test_fields_are_those_of_the_data(name: str, file: str, data_dir: Path):
    task = recipe(name).task
    first = next(read_rows(data_dir / file))
    assert {*task.source, task.target} <= first.values.keys()
