"""Training of rerankers: loss beside sentence-transformers', gradients that no cut changes, folders with the score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses
from tests.conftest import TinyFinetune
from torch import nn

import minilm
from minilm.errors import DataError
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.ranking_losses import ranking_loss
from minilm.finetune.rerank import RerankTask
from minilm.finetune.result import RunResult
from minilm.finetune.run import finetune_once
from minilm.finetune.start import start_model
from minilm.finetune.task import StepRows
from minilm.recipe import FinetuneRecipe, find_recipe, load_recipe, recipe_names
from minilm.tasks.rerank.settings import RerankSettings

LOSSES = ("bce", "mse", "margin-mse", "kl", "lambda")


def write_lists(folder: Path, name: str, *, seed: int, loss: str) -> None:
    """Six texts of each query; those that share its word are relevant: the first one alone for margin-mse."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(24):
        word = int(draw.integers(6))
        labels = [1, 0, 0, 1, 0, 0]
        texts = [f"word{word if label else (word + 1 + int(draw.integers(4))) % 6} word1" for label in labels]
        scores = [4.0 * label + float(draw.random()) for label in labels]
        row: dict[str, object] = {"query": f"word{word}", "score": scores}
        row |= {"positive": texts[0], "negatives": texts[1:]} if loss == "margin-mse" else {}
        row |= {"text": texts, "label": labels} if loss != "margin-mse" else {}
        rows.append(json.dumps(row))
    (folder / name).write_text("\n".join(rows))


def write_recipe(tiny: TinyFinetune, loss: str, **task: object) -> Path:
    """A recipe whose files are written beside it."""
    for number, name in enumerate(("lists.jsonl", "lists-dev.jsonl")):
        write_lists(tiny.folder, name, seed=number, loss=loss)
    recipe = {
        "kind": "finetune",
        "name": "rank",
        "out": str(tiny.folder / "run"),
        "model": str(tiny.model),
        "task": {
            "kind": "rerank",
            "name": "rank",
            "loss": loss,
            "train": [str(tiny.folder / "lists.jsonl")],
            "dev": [str(tiny.folder / "lists-dev.jsonl")],
            "max_tokens": 16,
            **task,
        },
        "train": {"steps": 6, "batch_size": 8, "tokens_per_batch": 256, "learning_rate": 1e-3},
    }
    file = tiny.folder / "rank.yaml"
    file.write_text(json.dumps(recipe))
    return file


def run(recipe: Path) -> RunResult:
    return finetune_once(load_recipe(recipe, kind=FinetuneRecipe).recipe, resolved="")


class Given(nn.Module):
    """A cross-encoder of sentence-transformers that returns given scores."""

    num_labels = 1
    device = torch.device("cpu")

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores.clone())

    def preprocess(self, pairs: object, **options: object) -> dict[str, torch.Tensor]:
        return {}

    def forward(self, tokens: object) -> dict[str, torch.Tensor]:
        return {"scores": self.scores}


@pytest.mark.parametrize("num_labels", [2, 4])
def test_lambda_loss_is_that_of_sentence_transformers(num_labels):
    """Loss and gradient, in float32 to 1e-5, with binary and graded labels."""
    draw = torch.Generator().manual_seed(num_labels)
    scores, labels = torch.randn(9, generator=draw), torch.randint(0, num_labels, (9,), generator=draw).float()
    given = Given(scores)
    theirs = losses.LambdaLoss(given, mini_batch_size=-1)([["query"], [["text"] * 9]], [labels])
    theirs.backward()
    own = scores.clone().requires_grad_()
    loss = ranking_loss(RerankSettings(name="x", loss="lambda"))
    mean = loss.total(own, labels) / loss.num_terms(labels.numpy())
    mean.backward()
    assert mean.item() == pytest.approx(theirs.item(), abs=1e-5)
    np.testing.assert_allclose(own.grad, given.scores.grad, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_does_not_depend_on_the_cut(loss, tiny_task):
    """With dropout, in float64 to 1e-10; lists longer than a batch are computed in parts."""
    found = load_recipe(write_recipe(tiny_task, loss), kind=FinetuneRecipe).recipe
    task = make_task(found.task, task_tokenizer(found.task, tiny_task.model, lowercase=None), model=tiny_task.model)
    assert isinstance(task, RerankTask)
    model = start_model(tiny_task.model, task, seed=1)
    task.prepare(model)
    model.double().train()

    def gradient(token_budget: int) -> torch.Tensor:
        rows = np.arange(8, dtype=np.int64)
        chosen = StepRows(rows=rows, own=np.arange(8), step=3, seed=5)
        model.zero_grad()
        task.batch(chosen, token_budget=token_budget).accumulate(model, lambda part: (part.backward(), part.item())[1])
        return torch.cat([one.grad.flatten() for one in task.parameters(model).values() if one.grad is not None])

    whole = gradient(100_000)
    assert whole.abs().max() > 0
    for token_budget in (200, 20):
        torch.testing.assert_close(gradient(token_budget), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("loss", "activation"), [("bce", nn.Sigmoid), ("mse", nn.Identity), ("lambda", nn.Identity)])
def test_a_trained_folder_gives_the_scores_of_sentence_transformers(loss, activation, tiny_task):
    """With the activation of its loss: a sigmoid after scores that were learned would tie the best."""
    result = run(write_recipe(tiny_task, loss))
    assert {"ndcg@10", "mrr@10", "map"} <= set(result.numbers)
    pairs = [("word1", "word1 word2"), ("word3", "word5"), ("word2 word4", "word0")]
    theirs = CrossEncoder(str(tiny_task.folder / "run" / "model"), device="cpu")
    assert isinstance(theirs.activation_fn, activation)
    model = minilm.load(tiny_task.folder / "run" / "model")
    np.testing.assert_allclose(model.score_pairs(pairs), theirs.predict(pairs), atol=1e-5)
    ranked = model.rank("word1", ["word5", "word1", "word3"], top_k=2)
    order = np.argsort(-theirs.predict([("word1", text) for text in ("word5", "word1", "word3")]))[:2]
    assert [one.index for one in ranked] == order.tolist()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"query": "word1", "text": ["word2", "word3"], "label": [1, None]}, "lists.jsonl:1"),
        ({"query": "word1", "text": ["word2", "word3"], "label": [1]}, "lists.jsonl:1"),
        ({"query": "word1"}, "lists.jsonl:1"),
    ],
)
def test_a_bad_row_is_named(row, problem, tiny_task):
    recipe = write_recipe(tiny_task, "lambda")
    (tiny_task.folder / "lists.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=problem):
        run(recipe)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("rerank/")])
def test_a_shipped_recipe_runs_in_small(name, tiny_task):
    found = load_recipe(find_recipe(name), kind=FinetuneRecipe).recipe
    assert (found.name, found.out) == (name.removeprefix("rerank/"), f"runs/{found.name}")
    write_lists(tiny_task.folder, "lists.jsonl", seed=1, loss=found.task.loss)
    overrides = [
        f"model={tiny_task.model}",
        f"out={tiny_task.folder / 'run'}",
        f"task.train=[{tiny_task.folder / 'lists.jsonl'}]",
        "task.dev=[]",
        "task.max_tokens=16",
        "train.steps=2",
        "train.batch_size=4",
    ]
    assert finetune_once(load_recipe(find_recipe(name), overrides, kind=FinetuneRecipe).recipe, resolved="").steps == 2
