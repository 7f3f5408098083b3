"""Fine-tuning on tagged words: it learns, its numbers are seqeval's, a head keeps its labels, mistakes are named."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from minilm.cli import app
from minilm.errors import DataError, UsageError
from minilm.files.tensors import read_safetensors
from minilm.finetune import run as run_module
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.start import start_head
from minilm.finetune.sweep import finetune
from minilm.infer.api import load
from minilm.recipe import FinetuneRecipe, find_recipe, load_recipe
from minilm.score.entities import METRICS
from minilm.tasks.saved import read_task
from minilm.train.loop import train

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def run(recipe: Path, *overrides: str):
    [point] = finetune(load_recipe(recipe, overrides, kind=FinetuneRecipe))
    return point.runs[0]


def sentences_of(path: Path) -> list[list[tuple[str, str]]]:
    return [[tuple(line.split()) for line in part.split("\n")] for part in path.read_text().strip().split("\n\n")]


def predictions(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions" / "dev.jsonl").read_text().split("\n") if line]


@pytest.fixture(scope="module")
def trained(new_tiny_task, tmp_path_factory):
    """A model from one run, with its folder and result."""
    task = new_tiny_task(tmp_path_factory.mktemp("ner"))
    return task, run(task.tokens_recipe(steps=50, eval_every=25))


@pytest.mark.slow
def test_a_run_learns_and_its_numbers_are_those_of_seqeval(trained):
    seqeval = pytest.importorskip("seqeval.metrics", reason="needs seqeval: pip install 'minilm[dev]'")
    from seqeval.scheme import IOB2

    task, result = trained
    assert result.main_metric == "f1"
    assert result.main > 40
    dev = sentences_of(task.folder / "dev.conll")
    out = task.folder / "run"
    rows = predictions(out)
    gold, found = [[tag for _, tag in sentence] for sentence in dev], [row["tags"] for row in rows]
    for name in ("f1", "precision", "recall"):
        score = getattr(seqeval, f"{name}_score")
        assert result.numbers[name] == pytest.approx(100 * score(gold, found))
        strict = 100 * score(gold, found, mode="strict", scheme=IOB2)
        assert result.numbers[f"strict_{name}"] == pytest.approx(strict)
    model = load(out / "model")
    assert model.labels == LABELS
    assert model.max_tokens == 32
    tagged = model.tag([[word for word, _ in sentence] for sentence in dev])
    assert [list(one.tags) for one in tagged] == found
    spans = [[(one["label"], one["start"], one["end"]) for one in row["prediction"]] for row in rows]
    assert spans == [[(one.label, one.start, one.end) for one in row.entities] for row in tagged]


def test_the_report_has_a_row_per_type_and_wrong_sentences(trained):
    task, _ = trained
    page = (task.folder / "run" / "report.html").read_text()
    assert "Entities by type" in page
    analysis = json.loads((task.folder / "run" / "analysis.json").read_text())["dev"]
    rows = analysis["tables"]["Entities by type"]
    assert [row["type"] for row in rows] == ["LOC", "PER", "micro average", "macro average", "weighted average"]
    assert "strict_f1" in page


def test_numbers_and_rows_are_those_that_score_tokens_prints(trained, capsys):
    """The command computes what the report shows from the predictions that are written beside it."""
    task, result = trained
    references = json.loads((task.folder / "tokens.yaml").read_text())["task"]["dev"][0]
    predictions = str(task.folder / "run" / "predictions" / "dev.jsonl")
    with pytest.raises(SystemExit):
        app.main(["score", "tokens", "--predictions", predictions, "--references", references, "--json"])
    scored = json.loads(capsys.readouterr().out)
    for name in METRICS:
        assert scored[name] == pytest.approx(result.numbers[name])
    rows = json.loads((task.folder / "run" / "analysis.json").read_text())["dev"]["tables"]["Entities by type"]
    assert [{"type": kind, **row} for kind, row in scored["types"].items()] == rows[:-3]
    assert [scored[f"{name}_f1"] for name in ("macro", "weighted")] == [row["f1"] for row in rows[-2:]]


@pytest.mark.slow
def test_a_trained_head_keeps_its_labels_in_any_order(trained, tmp_path):
    task, result = trained
    model = task.folder / "run" / "model"
    same = ("task.labels=[I-PER, O, B-LOC, B-PER, I-LOC]", "task.head=keep")
    frozen = {"steps": 1, "eval_every": 1, "learning_rate": 1e-12}
    values = json.loads((task.folder / "tokens.yaml").read_text())
    values["train"] |= frozen
    path = tmp_path / "again.yaml"
    path.write_text(json.dumps(values))
    again = run(path, f"out={tmp_path / 'again'}", f"model={model}", *same)
    assert again.numbers == pytest.approx(result.numbers, rel=1e-4)
    with pytest.raises(
        UsageError, match=r"task\.head is 'keep', but the head of .* does not fit: its labels are O, B-LOC"
    ):
        run(
            path,
            f"out={tmp_path / 'other'}",
            f"model={model}",
            "task.head=keep",
            f"task.labels=[{', '.join(LABELS)}, B-X]",
        )


@pytest.mark.parametrize(("ours", "other"), [("Token", "Sequence"), ("Sequence", "Token")])
def test_the_head_of_another_task_is_replaced_although_its_tensors_have_the_same_names(tiny_task, ours, other):
    """As many labels, of the same names: without a check the one would be read as the other."""
    pytest.importorskip("transformers", reason="needs transformers: pip install 'minilm[hf]'")
    path = tiny_task.tokens_recipe() if ours == "Token" else tiny_task.recipe()
    labels = LABELS if ours == "Token" else tiny_task.labels
    start = tiny_task.write_classifier("start", seed=1, labels=labels, of=other)
    recipe = load_recipe(path, [f"task.labels=[{', '.join(labels)}]"], kind=FinetuneRecipe).recipe
    task = make_task(recipe.task, task_tokenizer(recipe.task, start, lowercase=None))
    kind = {"Token": "tokens", "Sequence": "classification"}
    assert start_head(start, task).replaced == f"it is a {kind[other]} head"
    with pytest.raises(UsageError, match=rf"task\.head is 'keep', but .* has no {kind[ours]} head"):
        start_head(start, task, choice="keep")


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_bit_for_bit(tiny_task, monkeypatch):
    recipe = tiny_task.tokens_recipe(steps=12)

    def dying(*seen: object) -> None:
        if seen == ("batch", 8):
            raise DataError("killed")

    whole = run(recipe, f"out={tiny_task.folder / 'whole'}")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", partial(train, on_event=dying))
        with pytest.raises(DataError, match="killed"):
            run(recipe)
    resumed = run(recipe)
    assert resumed.numbers == whole.numbers
    weights, expected = (
        read_safetensors(tiny_task.folder / name / "model" / "model.safetensors") for name in ("run", "whole")
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_the_best_weights_are_selected_by_the_metric_of_the_recipe(tiny_task):
    recipe = tiny_task.tokens_recipe(steps=2, eval_every=2)
    assert run(recipe, "task.metric=strict_f1").main_metric == "strict_f1"
    with pytest.raises(UsageError, match=r"task\.metric is 'rouge1', expected one of f1, precision, recall, strict_f1"):
        run(recipe, "task.metric=rouge1")


def test_what_the_model_does_not_read_is_counted_once_per_file_and_scored_as_o(tiny_task, caplog):
    recipe = tiny_task.tokens_recipe(steps=1, eval_every=1)
    dev = tiny_task.folder / "dev.conll"
    dev.write_text("word0 B-PER\nword1 B-LOC\n\nword0 B-PER\nword2 O\nword1 B-LOC\n\x07 O\n\n" + "word1 B-LOC\n" * 3)
    result = run(recipe, "task.max_tokens=4")
    what = "words were beyond the first 4 tokens of their text; they are tagged O"
    found = [message for message in caplog.messages if message.endswith(f"(first: {dev}:4)") and "beyond" in message]
    assert found == [f"2 of 9 {what} (first: {dev}:4)"]
    dropped = "words consist of characters that the tokenizer drops; they are tagged O"
    assert f"1 of 9 {dropped} (first: {dev}:4)" in caplog.messages
    rows = predictions(tiny_task.folder / "run")
    assert [row["tags"][2:] for row in rows] == [[], ["O", "O"], ["O"]]
    assert result.numbers["recall"] <= 100 * 5 / 7


@pytest.mark.slow
def test_files_of_different_schemes_are_one_task(tiny_task):
    recipe = tiny_task.tokens_recipe(steps=1, eval_every=1)
    dev = tiny_task.folder / "dev.conll"
    dev.write_text("word0 S-PER\nword1 B-LOC\nword2s E-LOC\n")
    run(recipe)
    assert load(tiny_task.folder / "run" / "model").labels == LABELS
    dev.write_text("word0 B-ORG\n")
    shutil.rmtree(tiny_task.folder / "run")
    with pytest.raises(DataError, match=r"dev\.conll:1: found tag 'B-ORG', expected one of O, B-LOC, I-LOC, B-PER"):
        run(recipe)


def test_sentences_in_which_nothing_can_be_read_are_no_training_data(tiny_task):
    recipe = tiny_task.tokens_recipe(steps=1)
    (tiny_task.folder / "train.conll").write_text("\x07 O\n\n\x07 B-PER\n")
    (tiny_task.folder / "dev.conll").write_text("word0 O\n")
    with pytest.raises(DataError, match=r"no word of the 2 training sentences has a token \(first: .*train\.conll:1\)"):
        run(recipe)


def test_the_settings_are_saved_with_the_model(trained):
    task, _ = trained
    saved = read_task(task.folder / "run" / "model")
    assert (saved.kind, saved.name, saved.max_tokens, saved.scheme) == ("tokens", "entities", 32, "auto")
    values = json.loads((task.folder / "run" / "model" / "task.json").read_text())
    values["scheme"] = "BILOU"
    broken = task.folder / "broken"
    broken.mkdir()
    (broken / "task.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="scheme is 'BILOU'; expected 'auto' or 'IOB1' or 'IOB2' or 'IOBES'"):
        read_task(broken)


def test_the_shipped_recipe_has_the_defaults_of_run_ner():
    recipe = load_recipe(find_recipe("ner"), kind=FinetuneRecipe).recipe
    train = recipe.train
    assert (train.epochs, train.batch_size, train.learning_rate) == (3, 8, 5e-5)
    assert (train.warmup_fraction, train.weight_decay) == (0, 0)
    assert (recipe.task.kind, recipe.task.max_tokens) == ("tokens", 512)


def test_a_scheme_that_does_not_exist_is_rejected(tiny_task):
    with pytest.raises(UsageError, match=r"task\.scheme: found the text 'BIO', expected 'auto', 'IOB1', 'IOB2' or"):
        run(tiny_task.tokens_recipe(), "task.scheme=BIO")
