"""What the report of a classification shows: numbers of each label, the positive one, wrong texts, probabilities."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilm.cli import app
from minilm.finetune.multi_label import MultiLabelTask
from minilm.finetune.text import ClassificationTask
from minilm.score.classification import AVERAGES, RATES
from minilm.tasks.text.glue import text_task
from minilm.tasks.text.rows import TextColumns, TextRow, TextTask
from minilm.tasks.text.settings import TextSettings
from minilm.text.tokenizer import Tokenizer

COLUMNS = TextColumns(text="text", label="label")


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]))
    return Tokenizer.load(path)


def rows(labels) -> list[TextRow]:
    return [
        TextRow(
            text="a b c",
            text_pair=None,
            label=None if isinstance(label, tuple) else label,
            labels=label if isinstance(label, tuple) else (),
            id=f"n{number}",
            location=f"dev:{number}",
        )
        for number, label in enumerate(labels)
    ]


def analysed(tokenizer, kind, labels, gold, logits, metrics=("accuracy",)):
    spec = TextTask(name="own", columns=COLUMNS, labels=labels, metrics=metrics, main=metrics[0])
    task = kind(spec, rows(gold), {"dev": rows(gold)}, tokenizer, max_tokens=8)
    return task.analyse("dev", [np.array(row, dtype=np.float32) for row in logits])


def test_two_labels_have_a_positive_one_that_is_named(tokenizer):
    logits = [[0, 1], [2, 0], [0, 3], [1, 0]]
    found = analysed(tokenizer, ClassificationTask, ("bad", "good"), [1, 0, 0, 1], logits)
    table = found.tables["Labels (f1 of the results is that of 'good')"]
    assert [row["label"] for row in table] == ["bad", "good", "micro average", "macro average", "weighted average"]
    assert table[1] == {"label": "good", "precision": 50, "recall": 50, "f1": 50, "references": 2, "predictions": 2}
    assert found.tables["Confusion matrix"] == [
        {"reference \\ prediction": "bad", "bad": 1, "good": 1},
        {"reference \\ prediction": "good", "bad": 1, "good": 1},
    ]


def test_wrong_texts_are_shown_with_their_probabilities_most_confident_first(tokenizer):
    found = analysed(tokenizer, ClassificationTask, ("bad", "good"), [1, 0, 0, 1], [[0, 1], [2, 0], [0, 3], [1, 0]])
    shown = [(one["id"], one["gold"], one["predicted"], one["probabilities"]) for one in found.examples]
    assert shown == [
        ("n2", "bad", "good", "good 0.953, bad 0.047"),
        ("n3", "good", "bad", "bad 0.731, good 0.269"),
    ]
    assert found.predictions[2] == {
        "id": "n2",
        "prediction": "good",
        "score": 0.952574,
        "scores": {"bad": 0.047426, "good": 0.952574},
    }


def test_of_many_labels_the_most_probable_and_the_right_one_are_shown(tokenizer):
    labels = tuple("abcdefgh")
    found = analysed(tokenizer, ClassificationTask, labels, [7, 0], [[7, 6, 5, 4, 3, 2, 1, 0], [9] + [0] * 7])
    [wrong] = found.examples
    assert [part.split()[0] for part in wrong["probabilities"].split(", ")] == ["a", "b", "c", "d", "e", "h"]


def test_a_regression_has_numbers_only(tokenizer):
    found = analysed(tokenizer, ClassificationTask, (), [1.0, 2.0], [[1.5], [2.0]], ("pearson",))
    assert found.tables == {}
    assert "probabilities" not in found.examples[0]
    assert found.predictions == [{"id": "n0", "prediction": 1.5}, {"id": "n1", "prediction": 2.0}]


def test_sets_of_labels_have_the_same_table_and_probabilities(tokenizer):
    logits = [[1, -1, -1], [1, 1, -2], [-3, -1, -1]]
    found = analysed(tokenizer, MultiLabelTask, ("a", "b", "c"), [(0,), (2,), ()], logits, ("micro_f1",))
    table = found.tables["Labels"]
    assert table[0] == {
        "label": "a",
        "precision": 50,
        "recall": 100,
        "f1": pytest.approx(200 / 3),
        "references": 1,
        "predictions": 2,
    }
    assert [row["label"] for row in table[3:]] == ["micro average", "macro average", "weighted average"]
    [wrong] = found.examples
    assert (wrong["gold"], wrong["predicted"]) == ("c", "a, b")
    assert wrong["probabilities"] == "a 0.731, b 0.731, c 0.119"
    assert found.predictions[2] == {
        "id": "n2",
        "prediction": [],
        "scores": {"a": 0.047426, "b": 0.268941, "c": 0.268941},
    }


BINARY, THREE = {"labels": ("bad", "good")}, {"labels": ("bad", "fair", "good")}


@pytest.mark.parametrize(
    ("name", "settings", "gold"),
    [
        ("own", BINARY, [1, 0, 0, 1, 1, 0, 1, 1]),
        ("sst-2", {}, [1, 0, 0, 1, 1, 0, 1, 1]),
        ("own", THREE, [1, 0, 2, 1, 2, 0, 1, 2]),
        ("own", {**THREE, "multi_label": True}, [(0,), (1, 2), (), (2,), (0, 1), (1,), (0, 1, 2), ()]),
        ("own", {"regression": True}, [1.5, 0.25, 3.0, 2.0, 4.5, 5.0, 0.5, 1.0]),
    ],
)
def test_numbers_and_tables_are_those_that_score_text_prints(
    tokenizer, tmp_path, monkeypatch, capsys, name, settings, gold
):
    """What a report shows about a held-out set is what the command computes from the predictions written beside it."""
    monkeypatch.chdir(tmp_path)
    spec = text_task(TextSettings(name=name, **settings))
    kind = MultiLabelTask if spec.multi_label else ClassificationTask
    task = kind(spec, rows(gold), {"dev": rows(gold)}, tokenizer, max_tokens=8)
    outputs = list(np.random.default_rng(0).normal(size=(len(gold), max(1, len(spec.labels)))).astype(np.float32))
    numbers, found = task.metrics("dev", outputs), task.analyse("dev", outputs)

    def named(value):
        return [spec.labels[n] for n in value] if isinstance(value, tuple) else (spec.labels or {value: value})[value]

    for file, those in (("p", found.predictions), ("r", [{"id": row["id"]} for row in found.predictions])):
        lines = [{**row, "label": named(value)} for row, value in zip(those, gold, strict=True)]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = [*(["--labels", ",".join(spec.labels)] if spec.labels else ["--regression"])]
    flags += ["--multi-label"] * spec.multi_label
    with pytest.raises(SystemExit):
        app.main(["score", "text", "--predictions", "p.jsonl", "--references", "r.jsonl", "--json", *flags])
    scored = json.loads(capsys.readouterr().out)
    assert {key: scored[key] for key in numbers if key != "heldout_loss"} == pytest.approx(
        {key: value for key, value in numbers.items() if key != "heldout_loss"}
    )
    left = set(scored) - set(numbers) - {"total", "positive", "labels", "confusion_matrix"}
    assert left <= {f"{average}_{rate}" for average in AVERAGES for rate in RATES}  # which the table of labels shows
    shown = {title.partition(" (")[0]: table for title, table in found.tables.items()}
    by_name = {row["label"]: row for row in shown.get("Labels", [])}
    for label, expected in scored.get("labels", {}).items():
        assert {"label": label, **expected} == by_name[label]
    for key in left:
        average, _, rate = key.partition("_")
        assert scored[key] == pytest.approx(by_name[f"{average} average"][rate])
    matrix = {row.pop("reference \\ prediction"): row for row in shown.get("Confusion matrix", [])}
    assert scored.get("confusion_matrix", {}) == matrix
    positive = [title for title in found.tables if title.endswith(f"is that of {scored.get('positive')!r})")]
    assert len(positive) == ("positive" in scored)
