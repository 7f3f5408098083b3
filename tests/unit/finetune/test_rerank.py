"""Fine-tuning rerankers: the gradient does not depend on the cut, a run learns, its numbers are the command's."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from tests.host_reads import HostReads

from minilm.cli import app
from minilm.errors import DataError, UsageError
from minilm.files.json import read_json
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.result import verdict
from minilm.finetune.run import check_files
from minilm.finetune.start import start_model
from minilm.finetune.sweep import finetune
from minilm.finetune.task import StepRows
from minilm.infer.api import load
from minilm.model.checkpoint import read_model
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.tasks.rerank.settings import RerankLoss
from minilm.tasks.saved import read_task
from minilm.train.distributed import ALONE

LOSSES = RerankLoss.__args__


def run(recipe, *changes: str):
    [point] = finetune(load_recipe(recipe, changes, kind=FinetuneRecipe))
    return point.runs[0]


@pytest.fixture(scope="module")
def folder(new_tiny_task, tmp_path_factory):
    return new_tiny_task(tmp_path_factory.mktemp("rerank"))


def prepared(tiny, loss: str, pooling: str = "cls"):
    """A task and its model in double precision, with dropout."""
    recipe = load_recipe(tiny.rerank_recipe(loss, task={"pooling": pooling}), kind=FinetuneRecipe).recipe
    task = make_task(recipe.task, task_tokenizer(recipe.task, tiny.model, lowercase=None))
    model = start_model(tiny.model, task, seed=1)
    task.prepare(model)
    return task, model.double().train()


def gradient(task, model, own, token_budget: int):
    """Loss and gradients of a process that has the rows `own` of a step."""
    model = copy.deepcopy(model)
    rows = np.arange(3, 11)
    batch = task.batch(StepRows(rows=rows, own=np.array(own), step=5, seed=2), token_budget=token_budget)

    def backward(loss):
        loss.backward()
        return loss.detach()

    with HostReads() as reads:
        found = batch.accumulate(model, backward).value
    assert reads.count == 0
    value = float(found)
    return value, {name: weight.grad for name, weight in task.parameters(model).items()}, batch


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_do_not_depend_on_the_cut(folder, loss, pooling):
    """Whole, list by list, in parts of a list that are recomputed, and as two processes; always with dropout."""
    task, model = prepared(folder, loss, pooling)
    value, whole, batch = gradient(task, model, range(8), 10_000)
    assert len(batch.parts) == 1
    assert all(part is not None for part in whole.values())
    assert sum(bool(part.abs().max() > 1e-6) for part in whole.values()) > len(whole) - 5  # key biases, that of a score
    for budget in (100, 34):
        other, found, batch = gradient(task, model, range(8), budget)
        assert len(batch.parts) > 1
        assert other == pytest.approx(value, abs=1e-10)
        assert all((found[name] - whole[name]).abs().max() < 1e-10 for name in whole)
    assert any(len(part.parts) > 1 for part in batch.parts) == (loss in ("margin_mse", "kl", "lambda"))
    halves = [gradient(task, model, own, 100) for own in ((0, 2, 4, 6), (1, 3, 5, 7))]
    assert sum(half[0] for half in halves) == pytest.approx(value, abs=1e-10)
    assert all((sum(half[1][name] for half in halves) - whole[name]).abs().max() < 1e-10 for name in whole)


def test_dropout_is_on_in_that_test(folder):
    task, model = prepared(folder, "kl")
    losses = {gradient(task, model, range(8), 10_000)[0], gradient(task, model.eval(), range(8), 10_000)[0]}
    assert len(losses) == 2


@pytest.mark.slow
def test_a_run_learns_and_its_numbers_are_those_of_the_command(folder, capsys):
    loss = "lambda"
    path = folder.rerank_recipe(loss, loss, name=f"{loss}.yaml", steps=50, eval_every=25, task={"pooling": "mean"})
    result = run(path)
    assert result.main_metric == "ndcg@10"
    assert result.main > 75
    assert set(result.numbers) == {"ndcg@10", "mrr@10", "map", "heldout_loss"}
    predictions = str(folder.folder / loss / "predictions" / "lists-dev.jsonl")
    metrics = [word for name in ("ndcg@10", "mrr@10", "map") for word in ("--metric", name)]
    with pytest.raises(SystemExit):
        app.main(["score", "retrieval", "--predictions", predictions, "--references", predictions, "--json", *metrics])
    scored = json.loads(capsys.readouterr().out)
    for name in ("ndcg@10", "mrr@10", "map"):
        assert 100 * scored[name] == pytest.approx(result.numbers[name])
    model = load(folder.folder / loss / "model")
    assert read_task(model.folder).loss == loss
    found = model.rank("word1", ["word30", "word7 word31", "word32 word33"])
    assert found[0].index == 1
    assert "ranks texts" in repr(model)


def test_the_numbers_of_a_base_model_that_ranks_come_first_and_the_verdict_last(tiny_task, caplog):
    caplog.set_level("INFO")
    first = run(tiny_task.rerank_recipe(steps=2))
    assert not first.references
    again = run(tiny_task.rerank_recipe(steps=20), f"model={first.folder / 'model'}", f"out={tiny_task.folder / 'two'}")
    assert again.references["base"] == pytest.approx(first.numbers, rel=1e-4)
    assert verdict(again).startswith("verdict: better than the base model by ")
    assert "verdict: " in (tiny_task.folder / "two" / "model" / "README.md").read_text()


def test_a_damaged_base_model_has_no_numbers(tiny_task):
    first = run(tiny_task.rerank_recipe(steps=1)).folder / "model"
    recipe = load_recipe(tiny_task.rerank_recipe(), [f"model={first}"], kind=FinetuneRecipe).recipe
    task = make_task(recipe.task, task_tokenizer(recipe.task, first, lowercase=None), model=first)
    base = start_model(first, task, seed=1)
    base.head.out.bias.data.fill_(float("nan"))
    task.prepare(base)
    numbers = task.references(base, token_budget=10_000, ranks=ALONE)["base"]
    assert set(numbers) >= {"ndcg@10", "mrr@10", "map"}
    assert np.isnan(list(numbers.values())).all()
    [name] = task.dev_sets
    assert not task.score(base, name, token_budget=10_000).analyse().examples


def test_an_embedding_model_is_compared_by_the_order_of_its_vectors(tiny_task, caplog):
    """With its prompts, pooling and similarity; a model of neither vectors nor scores is not, which is said once."""
    caplog.set_level("INFO")
    run(tiny_task.rerank_recipe(steps=1))
    said = "the base model has no numbers to compare with: it gives neither scores of pairs nor vectors"
    assert caplog.text.count(said) == 1
    base = tiny_task.folder / "base"
    shutil.copytree(tiny_task.model, base)
    own = EmbeddingSettings(pooling=("max",), prompts={"query": "word3 ", "document": "word4 "}, similarity="euclidean")
    write_embedding(base, own, hidden_size=48)
    result = run(tiny_task.rerank_recipe("lambda", "two", steps=1), f"model={base}")
    model, judged = load(base), []
    for line in (tiny_task.folder / "lists-dev.jsonl").open():
        row = json.loads(line)
        query = model.encode([row["query"]], role="query")
        texts = model.encode([row["positive"], *row["negatives"]], role="document")
        found = model.similarity(query, texts)[0]
        judged.append(1 / (1 + (found[1:] > found[0]).sum()))
    assert set(result.references["base"]) == {"ndcg@10", "mrr@10", "map"}
    assert result.references["base"]["mrr@10"] == pytest.approx(100 * np.mean(judged), abs=1e-3)
    assert "than the base model" in verdict(result)


def test_the_folder_never_takes_more_tokens_than_it_has_positions_for(tiny_task):
    for pooling in ("cls", "mean"):
        task = {"max_tokens": 512, "pooling": pooling}
        folder = run(tiny_task.rerank_recipe(out=pooling, steps=1, tokens_per_batch=512, task=task)).folder / "model"
        limit = load(folder).config.max_tokens
        assert read_json(folder / "tokenizer_config.json")["model_max_length"] == limit < 512
        if pooling == "mean":
            assert read_json(folder / "sentence_bert_config.json")["max_seq_length"] == limit


def test_scores_that_a_loss_does_not_learn_are_reported(tiny_task, caplog):
    run(tiny_task.rerank_recipe("lambda", steps=1))
    assert "60 of 60 lists have scores, which loss lambda does not use: it learns labels (first: " in caplog.text


def test_a_dry_run_counts_lists_and_texts(tiny_task):
    path = tiny_task.rerank_recipe()
    rows = (tiny_task.folder / "lists-train.jsonl").read_text().strip().split("\n")
    texts = sum(1 + len(json.loads(row)["negatives"]) for row in rows)
    for loss, training in (("kl", f"training: 60 lists, {texts} texts"), ("mse", f"training: {texts} texts")):
        said = check_files(load_recipe(path, [f"task.loss={loss}"], kind=FinetuneRecipe).recipe, afresh=False)
        assert training in said
        assert any(one.startswith("lists-dev: 20 lists, ") for one in said)


@pytest.mark.parametrize(
    ("loss", "rows", "changes", "message"),
    [
        ("mse", [{"query": "a", "text": "b", "label": 1}, {"query": "a", "text": "c", "label": 0}], [], ""),
        ("bce", [{"query": "a", "text": "b", "label": 1}, {"query": "a", "text": "c", "label": 1}], [], "none that is"),
        (
            "bce",
            [{"query": "a", "text": "b", "score": -1.5}],
            [],
            "more.jsonl:1: a text has the score -1.5 and no label",
        ),
        (
            "bce",
            [{"query": "a", "text": "b", "label": 0}],
            [],
            "more.jsonl:1: no text of query 'a' has a label above 0",
        ),
        (
            "bce",
            None,
            ["task.metric=ndcg"],
            "task.metric is 'ndcg', expected one of ndcg@10, mrr@10, map, heldout_loss",
        ),
        ("mse", None, ["task.head=keep"], "task.head is 'keep', but .* has no classification head"),
        ("mse", None, ["task.head=keep", "task.pooling=mean"], "task.head is 'keep', but .* does not score the mean"),
        ("mse", None, ["task.max_tokens=70", "train.tokens_per_batch=64"], "an example must fit into a batch"),
        ("mse", None, ["train.attention_dropout=0.1"], "found train.attention_dropout with task kind rerank"),
        (
            "margin_mse",
            [{"query": "a", "texts": ["b", "c"], "labels": [1, 0]}],
            ["task.metric=heldout_loss"],
            "margin_mse",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(tiny_task, loss, rows, changes, message):
    path = tiny_task.rerank_recipe(loss)
    if rows is not None:
        file = tiny_task.folder / "more.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes = [*changes, f"task.dev=[{file}]"]
    if not message:
        check_files(load_recipe(path, changes, kind=FinetuneRecipe).recipe, afresh=False)
        return
    with pytest.raises((DataError, UsageError), match=message):
        check_files(load_recipe(path, changes, kind=FinetuneRecipe).recipe, afresh=False)


def test_without_what_the_loss_learns_there_is_no_heldout_loss(tiny_task):
    file = tiny_task.folder / "judged.jsonl"
    file.write_text(json.dumps({"query": "word1", "positive": "word7", "negatives": ["word8"]}) + "\n")
    result = run(tiny_task.rerank_recipe("mse", steps=1), f"task.dev=[{file}]")
    assert set(result.numbers) == {"ndcg@10", "mrr@10", "map"}


def test_a_smaller_student_keeps_the_head(tiny_task):
    teacher = run(tiny_task.rerank_recipe(steps=2)).folder / "model"
    values = json.loads(tiny_task.rerank_recipe("mse", "small", steps=1, learning_rate=1e-12).read_text())
    values |= {"model": str(teacher), "student": {"init": "layers", "teacher_layers": [1, 3]}}
    path = tiny_task.folder / "small.yaml"
    path.write_text(json.dumps(values))
    small = load(run(path).folder / "model")
    assert small.config.num_layers == 2
    ours, theirs = (read_model(one, head="classification").head.out.weight for one in (small.folder, teacher))
    assert torch.allclose(ours, theirs, atol=1e-6)
