"""A trained head keeps its own labels: transformers' predictions stay right under any order of the task's labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.commands import rows_of

import minilm
from minilm.errors import UsageError
from minilm.finetune.start import start_head, start_model
from minilm.finetune.sweep import finetune
from minilm.infer.api import load
from minilm.model.checkpoint import read_model
from minilm.recipe import FinetuneRecipe, load_recipe

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'minilm[hf]'")

UNTRAINED = {"steps": 1, "eval_every": 1, "learning_rate": 1e-12}


def run(recipe: Path, *overrides: str):
    return finetune(load_recipe(recipe, overrides, kind=FinetuneRecipe))


class Wanted:
    """What `start_head` reads of a task."""

    head = "classification"

    def __init__(self, *labels: str, problem: str = "single_label_classification") -> None:
        self.labels, self.problem = labels, problem


@pytest.fixture
def theirs(tiny_task):
    """`theirs(names)`: a folder of a transformers classifier of the tiny task's shape with random weights."""
    count = 0

    def make(*names: str, seed: int = 0, **config: object) -> Path:
        nonlocal count
        count += 1
        config = {"num_labels": len(names), **config}
        return tiny_task.write_classifier(f"theirs{count}", seed=seed, labels=names, **config)

    return make


def predicted(folder: Path, rows: list[dict]) -> list[str]:
    """The labels that transformers predicts."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(**tokenizer(row["text"], row.get("other"), return_tensors="pt")).logits for row in rows]
    return [model.config.id2label[int(one.argmax())] for one in logits]


def relabel(tiny_task, folder: Path, *, naming=str.lower, **more: str) -> None:
    """Give every row the label that transformers predicts: a model that is right scores 100."""
    for file in ("train.jsonl", "dev.jsonl"):
        path = tiny_task.folder / file
        rows = [{**row, **more} for row in rows_of(path)]
        labels = predicted(folder, rows)
        path.write_text(
            "".join(json.dumps({**row, "label": naming(label)}) + "\n" for row, label in zip(rows, labels, strict=True))
        )
        assert len(set(labels)) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "override"),
    [
        (("low", "mid", "high"), "task.labels=[]"),
        (("LOW", "High", "mid"), "task.labels=[mid, low, high]"),
        (("mid", "high", "low"), "task.head=keep"),
    ],
)
def test_a_model_that_is_right_scores_100_whatever_the_order_of_its_labels(tiny_task, theirs, names, override):
    model = theirs(*names)
    relabel(tiny_task, model)
    [point] = run(tiny_task.recipe(**UNTRAINED), f"model={model}", override)
    assert point.runs[0].main == 100.0
    ours, rows = load(tiny_task.folder / "run" / "model"), rows_of(tiny_task.folder / "dev.jsonl")
    assert ours.labels == (("mid", "low", "high") if "task.labels=[mid" in override else ("high", "low", "mid"))
    assert [one.label for one in ours.classify([row["text"] for row in rows])] == [row["label"] for row in rows]


@pytest.mark.slow
def test_mnli_in_the_order_of_other_models_scores_100(tiny_task, theirs):
    model = theirs("CONTRADICTION", "NEUTRAL", "ENTAILMENT")  # as roberta-large-mnli; MNLI's list has another order
    relabel(tiny_task, model, other="word7 word8")
    [point] = run(tiny_task.recipe(**UNTRAINED), f"model={model}", "task.name=mnli", "task.text_pair=other")
    assert point.runs[0].main == 100.0
    assert load(tiny_task.folder / "run" / "model").labels == ("contradiction", "entailment", "neutral")


@pytest.mark.slow
def test_sweeps_and_the_python_api_align_too(tiny_task, theirs):
    model = theirs("mid", "high", "low")
    relabel(tiny_task, model)
    file = tiny_task.recipe(**UNTRAINED, sweep={"seeds": [1, 2]})
    found = minilm.run(minilm.load_recipe(file, [f"model={model}"]))
    assert found.numbers["accuracy"] == 100.0
    assert [one["accuracy"] for one in json.loads((found.folder / "results.json").read_text())["runs"]] == [100.0] * 2


@pytest.mark.slow
def test_numbered_labels_are_the_unnamed_ones_of_transformers(tiny_task, theirs):
    model = theirs("LABEL_0", "LABEL_1", "LABEL_2")
    relabel(tiny_task, model, naming=lambda name: int(name.removeprefix("LABEL_")))
    [point] = run(tiny_task.recipe(**UNTRAINED), f"model={model}")
    assert point.runs[0].main == 100.0
    assert load(tiny_task.folder / "run" / "model").labels == ("0", "1", "2")


def test_another_order_is_reported_once_and_the_own_order_is_not(theirs, caplog):
    """The rows of a head are what a user trained: that they move is a warning, shown also without logging set up."""
    model = theirs("mid", "high", "low")
    start_model(model, Wanted("high", "low", "mid"), seed=0)
    order = "its labels mid, high, low are put in the order of the task: high, low, mid"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"the head of {model} is kept; {order}"]
    caplog.clear()
    start_model(model, Wanted("mid", "high", "low"), seed=0)
    assert caplog.messages == []


def test_two_labels_that_transformers_does_not_write_down_are_unnamed(theirs):
    model = theirs("LABEL_0", "LABEL_1")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({key: config[key] for key in config if "label" not in key}))
    assert start_head(model, Wanted("0", "1")).rows == (0, 1)
    with pytest.raises(UsageError, match="the unnamed labels LABEL_0, LABEL_1, the task no, yes: which is which"):
        start_head(model, Wanted("no", "yes"))


@pytest.mark.parametrize("choice", ["auto", "keep"])
def test_unnamed_labels_against_named_ones_are_rejected_before_work_and_not_guessed(tiny_task, theirs, choice):
    model = theirs("LABEL_0", "LABEL_1", "LABEL_2")
    with pytest.raises(UsageError) as caught:
        run(tiny_task.recipe(), f"model={model}", f"task.head={choice}")
    assert str(caught.value) == (
        f"the head of {model} has the unnamed labels LABEL_0, LABEL_1, LABEL_2, the task high, low, mid: which is "
        f"which is not known; name them in id2label of the model's config.json, or set task.head to 'fresh'"
    )
    assert not (tiny_task.folder / "run" / "checkpoints").exists()
    assert start_head(model, Wanted("high", "low", "mid"), choice="fresh").replaced == "task.head is 'fresh'"
    with pytest.raises(UsageError, match="which is which is not known"):  # stars from 1 are names
        start_head(model, Wanted("1", "2", "3"))


@pytest.mark.slow
def test_other_labels_get_a_fresh_head_and_a_warning(tiny_task, theirs, caplog):
    model = theirs("a", "b", "c")
    run(tiny_task.recipe(steps=1), f"model={model}")
    said = [text for text in caplog.messages if "freshly initialized" in text]
    assert said == [
        f"the head of {model} is replaced by a freshly initialized one: its labels are a, b, c, those of the task "
        f"high, low, mid"
    ]
    with pytest.raises(UsageError) as caught:
        start_head(model, Wanted("0", "1", "2"), choice="keep")
    assert str(caught.value) == (
        f"task.head is 'keep', but the head of {model} does not fit: its labels are a, b, c, those of the task "
        f"0, 1, 2 (if they are the same in this order, set task.labels to [a, b, c]); set it to 'fresh'"
    )


def test_fresh_replaces_a_head_that_would_fit(theirs):
    model = theirs("low", "mid", "high")
    task = Wanted("low", "mid", "high")
    own = read_model(model, head="classification").head.out.weight
    assert torch.equal(start_model(model, task, seed=1, head=start_head(model, task)).head.out.weight, own)
    fresh = start_model(model, task, seed=1, head=start_head(model, task, choice="fresh"))
    assert not torch.equal(fresh.head.out.weight, own)
    assert fresh.training


def test_rows_and_biases_move_together(theirs):
    model = theirs("a", "b", "c")
    own = read_model(model, head="classification").head.out
    found = start_model(model, Wanted("c", "a", "b"), seed=1).head.out
    assert torch.equal(found.weight, own.weight[[2, 0, 1]])
    assert torch.equal(found.bias, own.bias[[2, 0, 1]])
    assert found.weight.requires_grad


def test_keep_needs_a_head_with_weights(tiny_task, theirs):
    with pytest.raises(UsageError, match=r"task\.head is 'keep', but .* has no classification head; set it to 'auto'"):
        run(tiny_task.recipe(), "task.head=keep")
    encoder = tiny_task.model
    config = json.loads((encoder / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    (encoder / "config.json").write_text(json.dumps(config))
    task = Wanted("b", "a")
    with pytest.raises(UsageError, match="has no weights for it"):
        start_model(encoder, task, seed=1, head=start_head(encoder, task, choice="keep"))


def test_names_that_differ_only_in_case_are_matched_exactly(theirs):
    model = theirs("US", "us", "Us")
    assert start_head(model, Wanted("us", "Us", "US")).rows == (1, 2, 0)
    assert start_head(model, Wanted("uS", "Us", "US")).replaced
