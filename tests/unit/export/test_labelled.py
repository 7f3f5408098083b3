"""Proves that the score of the gate is what `minilm predict` and `minilm score` say about the same file."""

from __future__ import annotations

import json
import shutil

import pytest
from tests.commands import minilm

from minilm.errors import DataError, UsageError
from minilm.export.labelled import task_score
from minilm.files.json import read_json, write_json
from minilm.infer.api import load
from minilm.model.checkpoint import read_model, write_model
from minilm.model.metadata import activation_values
from minilm.tally import Tally
from minilm.tasks.rerank.settings import RerankSettings
from minilm.tasks.saved import write_task
from minilm.tasks.squad.settings import SquadSettings
from minilm.tasks.text.settings import TextSettings
from minilm.tasks.tokens.settings import TokensSettings


@pytest.fixture
def scored(tmp_path, capsys):
    """`scored(model, file, kind, *options)`: what the two commands print."""

    def run(model, file, kind, *options):
        predictions = tmp_path / "predictions.jsonl"
        assert minilm("predict", model, "--input", file, "--output", predictions) == 0
        capsys.readouterr()
        files = ("--predictions", predictions, "--references", file)
        assert minilm("score", kind, *files, *options, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return run


def classifier(task, folder, labels, settings, of="Sequence", **config):
    pytest.importorskip("transformers")
    made = task.write_classifier(folder, seed=1, labels=labels, of=of, **config)
    write_task(made, settings)
    return made


def test_accuracy(task, tmp_path, scored):
    model = classifier(task, tmp_path / "m", task.labels, TextSettings(name="own"))
    file = task.folder / "dev.jsonl"
    name, value = task_score(load(model), file, Tally())
    assert name == "accuracy"
    assert value == pytest.approx(scored(model, file, "text")["accuracy"])
    assert 0 < value < 100


def test_sets_of_labels(task, tmp_path, scored):
    settings = TextSettings(name="own", multi_label=True, labels=["a", "b"])
    model = classifier(task, tmp_path / "m", ("a", "b"), settings, problem_type="multi_label_classification")
    sets = [[], ["a"], ["b"], ["a", "b"]]
    rows = [{"text": f"word{n} word{2 * n}", "label": sets[n % 4]} for n in range(40)]
    file = tmp_path / "dev.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    name, value = task_score(load(model), file, Tally())
    assert value == pytest.approx(scored(model, file, "text", "--multi-label", "--labels", "a,b")[name])
    assert 0 < value < 100


def test_numbers(task, tmp_path, scored):
    model = classifier(task, tmp_path / "m", ("score",), TextSettings(name="own", regression=True))
    file = tmp_path / "dev.jsonl"
    file.write_text("".join(f'{{"text": "word{n} word3", "label": {n % 7}}}\n' for n in range(40)))
    name, value = task_score(load(model), file, Tally())
    assert value == pytest.approx(scored(model, file, "text", "--regression")[name])


def test_entities(task, tmp_path, scored):
    labels = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    model = classifier(task, tmp_path / "m", labels, TokensSettings(name="own", max_tokens=32), of="Token")
    file = task.write_sentences("own.conll", 30, seed=3)
    name, value = task_score(load(model), file, Tally())
    assert name == "f1"
    assert value == pytest.approx(scored(model, file, "tokens")["f1"])
    (tmp_path / "other.conll").write_text("word1 B-ORG\n")
    with pytest.raises(DataError, match="B-ORG"):
        task_score(load(model), tmp_path / "other.conll", Tally())


def test_answers(task, tmp_path, scored):
    folder = tmp_path / "m"
    shutil.copytree(task.model, folder)
    write_model(read_model(folder, head="span"), folder, head="span")
    write_task(folder, SquadSettings(name="squad", max_tokens=32, stride=8))
    context = " ".join(f"word{number}" for number in range(12))
    rows = [
        {"id": f"q{n}", "question": f"word{n}", "context": context, "answers": [{"text": context, "answer_start": 0}]}
        for n in range(6)
    ]
    file = tmp_path / "dev.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    name, value = task_score(load(folder), file, Tally())
    assert name == "f1"
    assert value == pytest.approx(scored(folder, file, "squad")["f1"])
    assert 0 < value < 100


@pytest.mark.parametrize("settings", [RerankSettings(name="own"), None])
def test_a_reranker_is_told_what_scores_it(task, tmp_path, settings):
    """Trained here, or a cross-encoder of the hub, which has no task.json: training it again would not help."""
    model = task.write_classifier(tmp_path / "m", seed=1, labels=("a",))
    write_json(model / "config.json", read_json(model / "config.json") | activation_values("Identity"))
    if settings is not None:
        write_task(model, settings)
    with pytest.raises(UsageError) as caught:
        task_score(load(model), task.folder / "dev.jsonl", Tally())
    assert str(caught.value) == (
        f"--labelled: {model} is a reranker, whose labeled files are not scored here; remove --labelled, then compare "
        "the runs that minilm predict --precision fp32 and int8 write with the new folder by minilm score retrieval"
    )


def test_a_folder_without_a_task(task):
    with pytest.raises(UsageError, match=r"--labelled: .*teacher has no task\.json"):
        task_score(load(task.model), task.folder / "dev.jsonl", Tally())
