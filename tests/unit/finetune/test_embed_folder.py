"""What training of text vectors does to the map after pooling, and the range of int8 vectors that it writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import minilm
from minilm.errors import UsageError
from minilm.files.json import read_json
from minilm.finetune.run import finetune_once
from minilm.finetune.sweep import check_recipe
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.vector_modules import Dense, Normalize
from minilm.recipe import FinetuneRecipe, load_recipe


def trained(recipe):
    """The folder of a model that a recipe trains for two steps."""
    loaded = load_recipe(recipe, ["train.steps=2"], kind=FinetuneRecipe)
    return finetune_once(loaded.recipe, resolved="").folder / "model"


@pytest.mark.parametrize("projection", ["keep", "drop"])
def test_int8_vectors_have_a_fixed_symmetric_range_from_the_folder(tiny_task, projection):
    """It is that of the training texts as the folder encodes them, so none of them is outside of it."""
    recipe = tiny_task.embed_recipe("vectors", task={"projection": projection})
    folder = trained(recipe)
    texts = [json.loads(line)["text"] for line in (tiny_task.folder / "vectors-train.jsonl").open()]
    model = minilm.load(folder)
    vectors = model.encode(texts)
    values = read_json(folder / "vector_ranges.json")
    assert values["low"] == -values["high"]
    assert values["high"] == pytest.approx(np.abs(vectors).max(), rel=1e-4)
    middles = (model.encode(texts, vectors="int8") + 1.0) / 127.5 * values["high"]  # of the 255 steps
    assert np.abs(middles - vectors).max() < values["high"] / 250


@pytest.mark.parametrize("normalize", [True, False])
def test_the_range_holds_trained_cuts_too(tiny_task, normalize):
    """Cut vectors of length 1 have larger values."""
    recipe = tiny_task.embed_recipe("cosent", task={"dimensions": [48, 8], "normalize": normalize})
    folder = trained(recipe)
    rows = [json.loads(line) for line in (tiny_task.folder / "vectors-train.jsonl").open()]
    texts = [row[name] for row in rows for name in ("sentence1", "sentence2")]
    model = minilm.load(folder)
    largest = max(np.abs(model.encode(texts, dimensions=size)).max() for size in (48, 8))
    assert read_json(folder / "vector_ranges.json")["high"] == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "width", "task", "student", "said"),
    [
        ("vectors", 16, {}, None, "48 values to 16, but this run makes vectors of width 48 of rows of width 48: it"),
        ("vectors", 16, {"projection": "keep"}, None, "48 of rows of width 48: a new one replaces it"),
        ("vectors", 48, {"projection": "drop"}, None, "is left out after training, as task.projection says"),
        ("cosent", 16, {}, {"num_layers": 1, "hidden_size": 24}, "16 of rows of width 24: a new one replaces it"),
        ("vectors", 48, {}, None, ""),
        ("cosent", 16, {}, None, ""),
    ],
)
def test_a_map_of_the_model_is_not_lost_in_silence(tiny_task, caplog, loss, width, task, student, said):
    base = tiny_task.folder / "base"
    shutil.copytree(tiny_task.model, base)
    weight = np.random.default_rng(1).normal(size=(width, 48)).astype(np.float32)
    modules = (Dense(weight=weight, bias=None), Normalize())
    write_embedding(base, EmbeddingSettings(modules=modules), hidden_size=48)
    recipe = tiny_task.embed_recipe(loss, task=task, student=student)
    check_recipe(load_recipe(recipe, [f"model={base}"], kind=FinetuneRecipe))
    found = [message for message in caplog.messages if "Dense" in message]
    assert len(found) == bool(said)
    assert all(message.startswith(f"the Dense of {base} ") and said in message for message in found), found


def test_held_out_pairs_without_a_correlation_do_not_end_a_run(tiny_task):
    """Nor does a base model, whose vectors of these texts are equal."""
    dev = tiny_task.folder / "same.jsonl"
    pairs = [{"sentence1": "word1", "sentence2": "word1", "score": score} for score in (0, 1)]
    dev.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    folder = trained(tiny_task.embed_recipe("cosent", task={"dev": [str(dev)]}))
    record = read_json(folder.parent / "result.json")
    undefined = {"spearmanr": None, "pearson": None}
    assert (record["numbers"], record["references"]) == (undefined, {"base": undefined})


@pytest.mark.parametrize(
    "changed", [{"pooling": ("cls",)}, {"prompts": {"query": "word1 "}}, {"modules": (Dense(weight=np.eye(48)),)}]
)
def test_a_model_that_makes_other_vectors_has_other_runs(tiny_task, changed):
    """Weights and configuration are the same: only the files of its modules say how it makes vectors."""
    settings = EmbeddingSettings(max_tokens=32, modules=(Dense(weight=2 * np.eye(48)),))
    write_embedding(tiny_task.model, settings, hidden_size=48)
    recipe = tiny_task.embed_recipe("cosent")
    trained(recipe)
    trained(recipe)  # has finished
    write_embedding(tiny_task.model, replace(settings, **changed), hidden_size=48)
    with pytest.raises(UsageError, match="belongs to a different run: model vectors was"):
        trained(recipe)
