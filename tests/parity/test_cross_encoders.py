"""A cross-encoder of sentence-transformers has one score per pair, after the activation that its folder states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

import minilm
from minilm.errors import DataError, UsageError
from minilm.model.activations import Activation
from minilm.model.checkpoint import read_model, write_model

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


def state(folder: Path, place: str, activation: str | None) -> None:
    """State the activation as sentence-transformers 3, 4 or 6 does."""
    if place == "old":
        change(folder / "config.json", **{OLD: activation})
    elif place == "config.json":
        change(folder / "config.json", sentence_transformers={"version": "4.0.1", "activation_fn": activation})
    else:
        settings = {"activation_fn": activation, "model_type": "CrossEncoder"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
        (folder / "modules.json").write_text(json.dumps([MODULE]))
        (folder / "sentence_bert_config.json").write_text(json.dumps(SCORER))


MODULE = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
SCORER = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}
PLACES = ["old", "config.json", "config_sentence_transformers.json"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", get_args(Activation))
def test_every_activation_is_read_in_every_place(folder, place, name):
    state(folder, place, f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}")
    assert same_scores(folder)


@pytest.mark.parametrize("outer", [None, "torch.nn.Tanh"])
@pytest.mark.parametrize("inner", [None, "torch.nn.ReLU", "absent"])
@pytest.mark.parametrize("old", [None, "torch.nn.SiLU"])
def test_of_several_places_the_one_of_theirs_wins(folder, outer, inner, old):
    state(folder, "config_sentence_transformers.json", outer)
    state(folder, "old", old)
    if inner != "absent":
        state(folder, "config.json", inner)
    assert same_scores(folder)


def test_without_modules_json_the_settings_of_the_folder_are_ignored_as_theirs_are(folder):
    state(folder, "config_sentence_transformers.json", "torch.nn.Tanh")
    (folder / "modules.json").unlink()
    assert same_scores(folder)


@pytest.mark.parametrize("name", get_args(Activation))
def test_what_is_written_here_has_the_scores_of_predict(folder, tmp_path, name):
    write_model(
        read_model(folder, head="classification"), folder, head="classification", problem="regression", activation=name
    )
    assert same_scores(folder)
    assert minilm.load(folder).activation == name
    sentence_transformers.CrossEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert minilm.load(tmp_path / "saved").activation == name


def test_an_activation_is_of_one_score(tiny_task, tmp_path):
    folder = tiny_task.write_classifier("several", seed=3, num_labels=2)
    with pytest.raises(
        UsageError, match=r"activation is 'Tanh' and problem is 'single_.*'; expected 'regression', one"
    ):
        write_model(read_model(folder, head="classification"), tmp_path, head="classification", activation="Tanh")


@pytest.fixture
def saved(folder, tmp_path) -> Path:
    """As sentence-transformers saves it now."""
    sentence_transformers.CrossEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    return tmp_path / "saved"


@pytest.mark.parametrize("limit", [5, 6, 100])
def test_the_length_of_the_encoder_truncates_pairs(saved, limit):
    change(saved / "sentence_bert_config.json", max_seq_length=limit)
    assert same_scores(saved)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "word1 "}, "default_prompt_name": "query"},
            "default_prompt_name is 'query' for a CrossEncoder; expected null",
        ),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is True; expected False"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "text-generation"},
            "transformer_task is 'text-generation'; expected 'sequence-classification'",
        ),
    ],
)
def test_what_changes_the_scores_of_pairs_is_rejected(saved, file, values, message):
    change(saved / file, **values)
    with pytest.raises(DataError, match=f"{file}: {message}"):
        minilm.load(saved)


def test_prompts_that_are_not_the_default_change_nothing(saved):
    change(saved / "config_sentence_transformers.json", prompts={"query": "word1 "})
    assert same_scores(saved)


def test_more_modules_than_the_encoder_are_rejected(saved):
    entries = json.loads((saved / "modules.json").read_text())
    more = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}
    (saved / "modules.json").write_text(json.dumps([*entries, more]))
    with pytest.raises(DataError, match=r"modules Transformer, Dense of a CrossEncoder; expected one Transformer"):
        minilm.load(saved)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["torch.nn.modules.activation.Softplus", "mine.Sigmoid", "Tanh", "", 3])
def test_another_activation_is_rejected_by_name(folder, place, path):
    state(folder, place, path)
    with pytest.raises(DataError) as caught:
        minilm.load(folder)
    file = place if place.endswith(".json") else "config.json"
    assert str(caught.value) == (
        f"{folder / file}: {OLD if place == 'old' else 'activation_fn'} is {path!r}; expected one of torch.nn: "
        "Identity, Tanh, ReLU, Sigmoid, SiLU, GELU"
    )


@pytest.mark.parametrize(
    ("problem", "name", "is_read"),
    [
        (None, "Identity", True),
        (None, "Softmax", True),
        (None, "Sigmoid", False),
        (None, "Tanh", False),
        ("multi_label_classification", "Sigmoid", True),
        ("multi_label_classification", "Identity", True),
        ("multi_label_classification", "Softmax", False),
    ],
)
def test_with_several_labels_only_what_gives_the_same_probabilities_is_read(tiny_task, problem, name, is_read):
    folder = tiny_task.write_classifier("theirs", seed=3, num_labels=3, problem_type=problem)
    state(folder, "config.json", f"torch.nn.{name}")
    if is_read:
        assert len(minilm.load(folder).classify(TEXTS)[0].probabilities) == 3
        return
    with pytest.raises(DataError, match=f"activation_fn is 'torch.nn.{name}'; expected one of torch.nn: Identity, S"):
        minilm.load(folder)
