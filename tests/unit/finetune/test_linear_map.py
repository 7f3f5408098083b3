"""A new map to the teacher's width starts as the least-squares map from the rows of the model as it starts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import minilm
from minilm.finetune.linear_map import least_squares
from minilm.finetune.run import finetune_once
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.vector_modules import Dense, Normalize
from minilm.recipe import FinetuneRecipe, load_recipe


def test_a_linear_relation_is_found():
    draw = np.random.default_rng(0)
    rows, weights, bias = draw.normal(size=(500, 6)), draw.normal(size=(9, 6)), draw.normal(size=9)
    found, shift = least_squares(rows, rows @ weights.T + bias)
    np.testing.assert_allclose(found, weights, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(shift, bias, atol=0.01)


@pytest.mark.parametrize("rows", [np.zeros((3, 4)), np.ones((1, 4)), np.random.default_rng(1).normal(size=(3, 4))])
def test_few_or_equal_rows_give_finite_numbers(rows):
    found, shift = least_squares(rows.astype(np.float32), np.ones((len(rows), 2), dtype=np.float32))
    np.testing.assert_allclose(rows @ found.T + shift, 1.0, atol=1e-6)


def test_only_vectors_of_the_teachers_width_are_fitted(tiny_task):
    """A loss of similarities has a teacher too, but its vectors may have any width."""
    base = tiny_task.folder / "base"
    shutil.copytree(tiny_task.model, base)
    weight = np.random.default_rng(1).normal(size=(16, 48)).astype(np.float32)
    write_embedding(base, EmbeddingSettings(modules=(Dense(weight=weight, bias=None), Normalize())), hidden_size=48)
    recipe = tiny_task.embed_recipe("similarities", student={"num_layers": 1, "hidden_size": 24})
    loaded = load_recipe(recipe, ["train.steps=1", f"model={base}"], kind=FinetuneRecipe)
    folder = finetune_once(loaded.recipe, resolved="").folder / "model"
    assert minilm.load(folder).encode("word1").shape == (16,)


def test_training_starts_with_the_map_of_the_start_model(tiny_task):
    recipe = tiny_task.embed_recipe("vectors", task={"projection": "keep"})
    still = ["train.steps=1", "train.learning_rate=1e-12", f"model={tiny_task.model}"]
    folder = finetune_once(load_recipe(recipe, still, kind=FinetuneRecipe).recipe, resolved="").folder / "model"
    texts = [json.loads(line)["text"] for line in (tiny_task.folder / "vectors-train.jsonl").open()]
    teacher = minilm.load(tiny_task.model)
    vectors = teacher.encode(texts)
    teacher.embedding = replace(teacher.embedding, modules=())
    weights, bias = least_squares(teacher.encode(texts), vectors)
    expected = torch.nn.functional.normalize(torch.from_numpy(teacher.encode(texts) @ weights.T + bias)).numpy()
    np.testing.assert_allclose(minilm.load(folder).encode(texts), expected, atol=2e-3)  # the teacher's are in fp16
