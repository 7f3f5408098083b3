"""Multi-label tasks: loss, F1 and probabilities are those of transformers and scikit-learn; labels in either layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.commands import rows_of
from torch.nn import functional

from minilm.errors import DataError, UsageError
from minilm.finetune.multi_label import MultiLabelTask
from minilm.finetune.sweep import finetune
from minilm.infer.api import load
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.score.multi_label import multi_label_metrics

LABELS = ("even", "low", "rare")


def run(recipe: Path, *overrides: str):
    return finetune(load_recipe(recipe, ["task.multi_label=true", *overrides], kind=FinetuneRecipe))


@pytest.fixture(params=["lists", "columns"])
def several(request, tiny_task):
    """The tiny task with any number of labels per text, as lists or as columns of 0 and 1."""
    for file in ("train.jsonl", "dev.jsonl"):
        path, lines = tiny_task.folder / file, []
        for row in rows_of(path):
            first = int(row["text"].split()[0].removeprefix("word"))
            held = [name for name, has in zip(LABELS, (first % 2 == 0, first < 4, first == 8), strict=True) if has]
            del row["label"]
            more = {"label": held} if request.param == "lists" else {name: int(name in held) for name in LABELS}
            lines.append(json.dumps({**row, **more, "held": held}) + "\n")
        path.write_text("".join(lines))
    return tiny_task


@pytest.mark.slow
@pytest.mark.parametrize("several", ["columns"], indirect=True)
def test_a_run_learns_and_its_numbers_are_those_of_scikit_learn(several):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'minilm[dev]'")
    [point] = run(several.recipe(steps=150, eval_every=50), "task.labels=[even, low, rare]")
    [result] = point.runs
    assert result.main_metric == "micro_f1"
    assert result.main > 70
    out, dev = several.folder / "run", rows_of(several.folder / "dev.jsonl")
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    model = load(out / "model")
    assert model.labels == LABELS
    found = model.classify([row["text"] for row in dev])
    written = rows_of(out / "predictions" / "dev.jsonl")
    assert [list(one.labels) for one in found] == [row["prediction"] for row in written]
    gold = np.array([[name in row["held"] for name in LABELS] for row in dev])
    given = np.array([[name in one.labels for name in LABELS] for one in found])
    for kind in ("micro", "macro"):
        expected = 100 * metrics.f1_score(gold, given, average=kind, zero_division=0)
        assert result.numbers[f"{kind}_f1"] == pytest.approx(expected)
    assert "Labels" in (out / "report.html").read_text()
    [again] = run(  # the trained head is kept, aligned by name
        several.recipe("again", steps=1, eval_every=1, learning_rate=1e-12),
        *("task.labels=[rare, even, low]", "task.head=keep", f"model={out / 'model'}"),
    )
    assert again.runs[0].numbers == pytest.approx(result.numbers, rel=1e-4)


def test_the_loss_is_that_of_transformers():
    scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    targets = (torch.arange(15).reshape(5, 3) % 4 == 0).float()
    losses = MultiLabelTask.losses(None, scores, None, targets)  # BCEWithLogitsLoss is the mean over all entries
    assert losses.mean().item() == pytest.approx(functional.binary_cross_entropy_with_logits(scores, targets).item())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_f1_is_that_of_scikit_learn(share):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'minilm[dev]'")
    draw = np.random.default_rng(1)
    gold, found = draw.random((40, 4)) < share, draw.random((40, 4)) < 0.4
    gold[:, 3] = found[:, 3] = False  # a label that nobody has
    ours = multi_label_metrics(gold, found)
    for kind in ("micro", "macro"):
        expected = 100 * metrics.f1_score(gold, found, average=kind, zero_division=0)
        assert ours[f"{kind}_f1"] == pytest.approx(expected)
    assert ours["accuracy"] == pytest.approx(100 * metrics.accuracy_score(gold, found))
    nothing = multi_label_metrics(gold & False, found & False)
    assert nothing.pop("accuracy") == 100
    assert set(nothing.values()) == {0.0}


@pytest.mark.parametrize(
    ("row", "labels", "message"),
    [
        ({"label": "a"}, "[]", "column 'label': found a string, expected a list of labels; if each label has its own"),
        ({"label": ["a", "a"]}, "[]", "found label 'a' twice in a list; expected names, not a vector of 0 and 1"),
        ({"label": [1, 0]}, "[a, b]", "found [1, 0], which may be numbers of labels or a vector of 0 and 1; write na"),
        ({"label": ["c"]}, "[a, b]", "found label 'c', expected one of a, b, 0, 1"),
        ({"a": 1, "b": 2}, "[a, b]", "column 'a', 'b': found '2', expected 0 or 1; correct the row"),
        ({"a": 1}, "[a, b]", "expects the columns 'text', 'label' or 'text', 'a', 'b', found"),
        ({"a": 1, "b": 0}, "[]", '; name the file\'s own columns, for example --set "task.labels=[a, b]", or rename'),
        ({"a": 1, "b": 0, "held": []}, "[a, c]", 'for example --set "task.labels=[a, b]", or rename'),
        ({"held": ["a"]}, "[]", "for example --set task.label=held, or rename"),
        ({"a": -1, "b": -1}, "[a, b]", "found no row with a label, expected at least one; 1 rows without a label"),
        ({"label": []}, "[a, b]", "none of the 1 training rows has a label"),
    ],
)
def test_other_labels_are_rejected_with_their_line(tiny_task, row, labels, message):
    (tiny_task.folder / "train.jsonl").write_text(json.dumps({"text": "word1", **row}) + "\n")
    with pytest.raises(DataError) as caught:
        run(tiny_task.recipe(), f"task.labels={labels}", "task.dev=[]")
    assert message in str(caught.value)
    assert "train.jsonl" in str(caught.value)


def test_settings_that_contradict_are_rejected(tiny_task):
    with pytest.raises(UsageError, match="found multi_label and regression both true; a task is one of them"):
        run(tiny_task.recipe(), "task.regression=true")
    with pytest.raises(UsageError, match="GLUE task 'cola' has one label per text"):
        run(tiny_task.recipe(), "task.name=cola")
    with pytest.raises(UsageError, match=r"task\.metric is 'f1'; task 'parity' has micro_f1, macro_f1, accuracy$"):
        run(tiny_task.recipe(), "task.metric=f1", "task.labels=[low]")
