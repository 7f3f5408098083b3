"""A cross-encoder of sentence-transformers has one score per pair, after the activation that its folder states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import minilm
from minilm.errors import DataError

transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = ["word1 word2", "word3", "word4 word5 word6 word7"]
PAIRS = ["word8", "word9 word10 word11", "word12"]
IDENTITY, SIGMOID = torch.nn.Identity(), torch.nn.Sigmoid()
OLD = "sbert_ce_default_activation_function"


@pytest.fixture
def folder(tiny_task) -> Path:
    """One output, without a problem type, as cross-encoders have it."""
    folder = tiny_task.write_classifier("theirs", seed=3, num_labels=1)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("problem_type", None)
    path.write_text(json.dumps(config))
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def same_scores(folder: Path) -> bool:
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(list(zip(TEXTS, PAIRS, strict=True)))
    ours = [one.score for one in minilm.load(folder).classify(TEXTS, PAIRS)]
    return ours == pytest.approx(theirs.tolist(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("activation", [IDENTITY, SIGMOID, None])
def test_a_saved_folder_has_the_scores_of_predict(folder, tmp_path, activation):
    saved = tmp_path / "saved"
    sentence_transformers.CrossEncoder(str(folder), activation_fn=activation, device="cpu").save_pretrained(str(saved))
    assert same_scores(saved)
    scores = [one.score for one in minilm.load(saved).classify(TEXTS, PAIRS)]
    raw = [one.score for one in minilm.load(folder).classify(TEXTS, PAIRS)]
    expected = raw if activation is IDENTITY else torch.tensor(raw).sigmoid().tolist()
    assert scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        {OLD: "torch.nn.modules.linear.Identity"},
        {OLD: "torch.nn.modules.activation.Sigmoid"},
        {"sentence_transformers": {"version": "4.0.1", "activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sentence_transformers": {"version": "4.0.1"}},
        {"sentence_transformers": {"activation_fn": "torch.nn.Identity"}, OLD: "torch.nn.Sigmoid"},
    ],
)
def test_folders_of_older_versions_do_too(folder, values):
    change(folder / "config.json", **values)
    assert same_scores(folder)


def test_a_classifier_of_transformers_keeps_its_raw_number(folder):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, PAIRS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**tokens).logits[:, 0].tolist()
    assert [one.score for one in minilm.load(folder).classify(TEXTS, PAIRS)] == pytest.approx(
        expected, rel=1e-5, abs=1e-5
    )


def test_another_activation_is_rejected_by_name(folder):
    change(folder / "config.json", **{OLD: "torch.nn.modules.activation.Tanh"})
    with pytest.raises(DataError, match=r"config\.json: the activation is 'torch.*Tanh'; expected Sigmoid or Identity"):
        minilm.load(folder)
