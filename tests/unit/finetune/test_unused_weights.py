"""Weights that a run does not use are changed by AdamW's weight decay alone, whatever is stored or left out."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.host_reads import HostReads

from minilm.errors import DataError
from minilm.files.tensors import read_safetensors
from minilm.finetune import run as run_module
from minilm.finetune import sequences
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.run import start_model
from minilm.finetune.sweep import finetune
from minilm.model.heads import Model
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.train import loop
from minilm.train.loop import train

WORDS = "bert.embeddings.word_embeddings.weight"
DECAY = {"weight_decay": 0.5, "steps": 20, "eval_every": 7}


def words_after(recipe: Path, out: str) -> torch.Tensor:
    """The word table of the model that the recipe trains, `[V, E]`."""
    finetune(load_recipe(recipe, [f"out={recipe.parent / out}"], kind=FinetuneRecipe))
    return read_safetensors(recipe.parent / out / "model" / "model.safetensors")[WORDS]


@pytest.fixture(params=["last", "best"])
def recipe(tiny_task, request) -> Path:
    """A recipe that keeps the last weights, or those of the best evaluation; nine words occur in its texts."""
    for name in ("train.jsonl", "dev.jsonl"):
        rows = [json.loads(row) for row in (tiny_task.folder / name).read_text().split("\n") if row]
        rows = [{**row, "text": row["text"].split()[0]} for row in rows]
        (tiny_task.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tiny_task.recipe(**DECAY)
    if request.param == "last":
        values = json.loads(path.read_text())
        values["task"]["dev"] = []
        path.write_text(json.dumps(values))
    return path


@pytest.mark.slow
def test_the_table_is_the_one_that_adamw_makes_of_the_full_table(recipe, monkeypatch):
    """Also with a step that is skipped because its gradient is not finite."""
    before = read_safetensors(recipe.parent / "teacher" / "model.safetensors")[WORDS.removeprefix("bert.")]
    real = loop._clip
    calls = []

    def fourth_is_infinite(*arguments):
        calls.append(real(*arguments))
        return [torch.tensor(math.inf)] if len(calls) % DECAY["steps"] == 4 else calls[-1]

    monkeypatch.setattr(loop, "_clip", fourth_is_infinite)
    compact = words_after(recipe, "compact")
    monkeypatch.setattr(sequences, "hold_rows", lambda *_: None)
    full = words_after(recipe, "full")
    torch.testing.assert_close(compact, full, atol=1e-6, rtol=0)
    changed = (compact / before)[~torch.isclose(before, torch.zeros(()))].median()
    assert 0.95 < changed < 0.999  # most rows are not in use


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_decays_the_table_the_same(recipe, monkeypatch):
    whole = words_after(recipe, "whole")

    def dying(*seen: object) -> None:
        if seen == ("batch", 16):
            raise DataError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", partial(train, on_event=dying))
        with pytest.raises(DataError, match="killed"):
            words_after(recipe, "broken")
    assert torch.equal(words_after(recipe, "broken"), whole)


def write_tasks(tiny_task) -> dict[str, dict[str, object]]:
    """A task section of each kind."""
    folder = tiny_task.folder
    words = "word1 word2 word3 word4 word5"
    asked = [{"id": str(n), "question": "word7", "answers": [{"text": "word2", "answer_start": 6}]} for n in range(9)]
    squad = {"data": [{"paragraphs": [{"context": words, "qas": asked}]}]}
    (folder / "squad.json").write_text(json.dumps(squad))
    rows = [{"text": words, "src": words, "tgt": "word1", "label": n % 3, "number": n / 9} for n in range(9)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": [str(folder / "rows.jsonl")], "dev": []}
    short = {"max_tokens": 32}
    text = {"kind": "text", "name": "own", **files, **short, "text": "text"}
    (folder / "words.conll").write_text("word1 B-X\nword2 O\n\n" * 9)
    return {
        "tokens": {"kind": "tokens", "name": "own", **files, "train": [str(folder / "words.conll")], **short},
        "labels": {**text, "label": "label"},
        "numbers": {**text, "label": "number", "regression": True},
        "squad": {"kind": "squad", "name": "own", **files, "train": [str(folder / "squad.json")], **short},
        "seq2seq": {"kind": "seq2seq", "name": "own", **files, "max_source_tokens": 20, "max_target_tokens": 6},
    }


@pytest.mark.parametrize("kind", ["labels", "numbers", "squad", "tokens", "seq2seq"])
def test_every_trained_weight_gets_a_gradient(kind, tiny_task):
    """One without it is skipped in a single process and decays in several, where a missing gradient is zero.

    And a GPU is not waited for.
    """
    tiny_task.distillation.write_teacher(words=("[unused1]", *tiny_task.distillation.words[:-1]))
    path = tiny_task.recipe(weight_decay=0.5)
    values = {**json.loads(path.read_text()), "task": write_tasks(tiny_task)[kind]}
    path.write_text(json.dumps(values))
    recipe = load_recipe(path, kind=FinetuneRecipe).recipe
    task = make_task(recipe.task, task_tokenizer(recipe.task, tiny_task.model, lowercase=None))
    model: Model = start_model(tiny_task.model, task, seed=1)
    task.prepare(model)
    assert model.encoder.pooler is not None or kind in ("seq2seq", "tokens")
    objective = FinetuneObjective(model, task, batch_size=4, tokens_per_batch=64, seed=1)

    def backward(loss: torch.Tensor) -> torch.Tensor:
        loss.backward()
        return loss.detach()

    batch = objective.batch(0)
    with HostReads() as reads:
        objective.accumulate(batch, backward)
    assert reads.count == 0
    missing = [name for name, weight in objective.parameters.items() if weight.grad is None]
    assert not missing
