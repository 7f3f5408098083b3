"""`problem_type` of a classifier: the probabilities are those of transformers' own pipeline, or it is rejected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import minilm
from minilm.cli import app
from minilm.errors import DataError
from minilm.model.metadata import label_names, read_problem

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'minilm[hf]'")
TEXTS = [f"word{number} word{7 * number % 95}" for number in range(1, 20)]


@pytest.fixture
def make(tiny_task):
    """`make(num_labels, **config)`: a folder of a transformers classifier with random weights."""

    def write(num_labels: int, **config: object) -> Path:
        return tiny_task.write_classifier("theirs", seed=3, num_labels=num_labels, **config)

    return write


@pytest.mark.slow
@pytest.mark.parametrize("num_labels", [3, 2, 1])
def test_a_multi_label_model_answers_with_a_sigmoid_per_label(make, num_labels, capsys):
    folder = make(num_labels, problem_type="multi_label_classification")
    pipe = transformers.pipeline("text-classification", model=str(folder), tokenizer=str(folder), top_k=None)
    model = minilm.load(folder)
    found = model.classify(TEXTS)
    for one, theirs in zip(found, pipe(TEXTS), strict=True):
        expected = {row["label"]: row["score"] for row in theirs}
        assert dict(zip(model.labels, one.probabilities, strict=True)) == pytest.approx(expected, abs=1e-5)
        assert one.labels == tuple(name for name in model.labels if expected[name] > 0.5)
        assert (one.label, one.score) == (theirs[0]["label"], pytest.approx(theirs[0]["score"], abs=1e-5))
    assert num_labels == 1 or len({one.labels for one in found}) > 1
    assert [repr(one) for one in found] == [
        f"<Classified labels {list(one.labels)}, highest {one.label!r} with {one.score:.3f}>" for one in found
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    with pytest.raises(SystemExit) as caught:
        app.main(["predict", str(folder), "--input", str(folder / "in.jsonl"), "--output", str(folder / "out.jsonl")])
    assert caught.value.code == 0
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().split("\n") if line]
    assert [row["prediction"] for row in rows] == [list(one.labels) for one in found]
    assert list(rows[0]) == ["id", "prediction", "scores"]
    assert rows[0]["scores"] == pytest.approx(dict(zip(model.labels, found[0].probabilities, strict=True)), abs=1e-6)


@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_one_label_of_several_stays_a_softmax(make, problem):
    folder = make(3, problem_type=problem)
    pipe = transformers.pipeline("text-classification", model=str(folder), tokenizer=str(folder), top_k=1)
    for one, theirs in zip(minilm.load(folder).classify(TEXTS), pipe(TEXTS), strict=True):
        assert (one.label, one.score) == (theirs[0]["label"], pytest.approx(theirs[0]["score"], abs=1e-5))
        assert (sum(one.probabilities), one.labels) == (pytest.approx(1), ())


@pytest.mark.parametrize("problem", [None, "regression"])
def test_regression_stays_a_number(make, problem):
    folder = make(1, problem_type="regression")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": problem}))
    pipe = transformers.pipeline(
        "text-classification", model=str(folder), tokenizer=str(folder), function_to_apply="none"
    )
    found = minilm.load(folder).classify(TEXTS)
    assert [one.score for one in found] == pytest.approx([row["score"] for row in pipe(TEXTS)], rel=1e-5, abs=1e-5)
    assert {(one.label, one.probabilities) for one in found} == {("", ())}


@pytest.mark.parametrize(
    ("num_labels", "problem", "message"),
    [
        (
            3,
            "regression",
            "problem_type is 'regression' and the number of labels is 3; expected one label to predict a number",
        ),
        (
            1,
            "single_label_classification",
            "problem_type is 'single_label_classification' and the number of labels is 1; expected at least two labels",
        ),
        (
            2,
            "multilabel",
            "problem_type is 'multilabel'; expected one of 'single_label_classification', "
            "'multi_label_classification', 'regression', or remove the key",
        ),
    ],
)
def test_what_would_be_another_number_is_rejected(make, num_labels, problem, message):
    folder = make(num_labels)
    config = json.loads((folder / "config.json").read_text())
    labels = {str(index): f"name {index}" for index in range(num_labels)}
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": problem, "id2label": labels}))
    with pytest.raises(DataError) as caught:
        minilm.load(folder)
    assert str(caught.value) == f"{folder / 'config.json'}: {message}"
    with pytest.raises(DataError, match="problem_type is"):
        read_problem(folder)


def edit(folder, **values):
    """Change keys of the configuration; None removes one."""
    path = folder / "config.json"
    kept = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))


@pytest.mark.parametrize(("num_labels", "of"), [(1, "Sequence"), (2, "Sequence"), (5, "Sequence"), (4, "Token")])
def test_labels_without_names_are_as_many_as_num_labels(tiny_task, num_labels, of):
    folder = tiny_task.write_classifier("theirs", seed=3, of=of, num_labels=num_labels)
    edit(folder, num_labels=num_labels, id2label=None, label2id=None)
    theirs = tuple(transformers.AutoConfig.from_pretrained(folder).id2label.values())
    assert label_names(folder) == theirs
    model = minilm.load(folder)
    assert tuple(model.labels) == (() if num_labels == 1 else theirs)
    if of == "Sequence":
        pipe = transformers.pipeline("text-classification", model=str(folder), tokenizer=str(folder))
        function = "none" if num_labels == 1 else "softmax"
        expected = [row["score"] for row in pipe(TEXTS, function_to_apply=function)]
        assert [one.score for one in model.classify(TEXTS)] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_labels": 4},
            "num_labels is 4 and id2label has 3; transformers 4 takes id2label, transformers 5 num_labels: "
            "remove the wrong one",
        ),
        ({"num_labels": "3"}, "num_labels is '3'; expected a whole number from 1 to 1048576"),
        ({"num_labels": True}, "num_labels is True; expected a whole number from 1 to 1048576"),
        ({"num_labels": 0}, "num_labels is 0; expected a whole number from 1 to 1048576"),
        ({"num_labels": 2**40, "id2label": {}}, f"num_labels is {2**40}; expected a whole number from 1 to 1048576"),
    ],
)
def test_a_number_of_labels_that_is_none_or_another_one_is_rejected(make, values, message):
    folder = make(3)
    edit(folder, **{"id2label": {"0": "a", "1": "b", "2": "c"}, **values})
    with pytest.raises(DataError) as caught:
        minilm.load(folder)
    assert str(caught.value) == f"{folder / 'config.json'}: {message}"


def test_a_head_with_more_rows_than_labels_says_how_to_state_them(make):
    folder = make(3)
    edit(folder, id2label=None, label2id=None)
    with pytest.raises(
        DataError, match=r"classifier.weight \(3, 48\) .expected \(2, 48\).*name the labels of the head"
    ):
        minilm.load(folder)
