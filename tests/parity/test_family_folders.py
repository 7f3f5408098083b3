"""Proves that folders of every family can be used: texts to scores as in transformers, fine-tuned, read there again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minilm.errors import DataError, UsageError
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.sweep import finetune
from minilm.infer.api import load
from minilm.model.checkpoint import read_model
from minilm.model.packed_ids import pack_ids
from minilm.recipe import FinetuneRecipe, load_recipe

transformers = pytest.importorskip("transformers")

WORDS = [f"word{number}" for number in range(95)]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
MPNET = ["<s>", "<pad>", "</s>", "<unk>", *BERT, "<mask>"]
CAMEMBERT = [
    *(("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)),
    *(("<s>", 0.0), ("</s>", 0.0), *((f"▁{word}", -2.0) for word in WORDS), ("▁", -3.0), ("<mask>", 0.0)),
]
SIZES = {"num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 66, "initializer_range": 0.3}
FAMILIES = {
    "camembert": ("Camembert", CAMEMBERT, {"hidden_size": 32, "intermediate_size": 40, "type_vocab_size": 1}),
    "distilbert": ("DistilBert", BERT, {"dim": 32, "hidden_dim": 40}),
    "electra": ("Electra", BERT, {"hidden_size": 32, "intermediate_size": 40, "embedding_size": 24}),
    "mpnet": ("MPNet", MPNET, {"hidden_size": 32, "intermediate_size": 40}),
}
LABELS = ("low", "mid", "high")
LONG = " ".join(WORDS[:40])  # beyond the first half of MPNet's buckets
TEXTS = ["word3 word4 [CLS] wordx", "", LONG, "word90"]
PAIRS = ["word1", "word2 word3", "word4 word5", ""]


@pytest.fixture(autouse=True)
def quiet():
    transformers.utils.logging.set_verbosity_error()


def write(folder: Path, family: str, kind: str) -> Path:
    """A random model and tokenizer, both written by transformers."""
    name, vocab, sizes = FAMILIES[family]
    vocabulary = vocab if family == "camembert" else {token: number for number, token in enumerate(vocab)}
    tokenizer = getattr(transformers, f"{name}Tokenizer")(vocab=vocabulary, model_max_length=64)
    labels = LABELS if kind == "SequenceClassification" else ("start", "end")
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    config = getattr(transformers, f"{name}Config")(**SIZES, **sizes, **names, vocab_size=len(vocab))
    torch.manual_seed(1)
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(config)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def theirs(folder: Path, kind: str):
    model = getattr(transformers, f"AutoModel{kind}").from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def run(*texts):
        return model(**tokenizer(*texts, padding=True, return_tensors="pt"))

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_and_vectors_of_padded_texts_and_pairs_are_those_of_transformers(tmp_path, family):
    folder = write(tmp_path, family, "SequenceClassification")
    ours, run = load(folder), theirs(folder, "ForSequenceClassification")
    with torch.no_grad():
        for texts in ([TEXTS], [TEXTS, PAIRS]):
            found = [one.probabilities for one in ours.classify(*texts)]
            np.testing.assert_allclose(found, run(*texts).logits.softmax(-1), atol=1e-5)
        first = theirs(folder, "")(TEXTS).last_hidden_state[:, 0]
    (folder / "1_Pooling").mkdir()
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    np.testing.assert_allclose(load(folder).encode(TEXTS), first, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_span_scores_of_questions_are_those_of_transformers(tmp_path, family):
    folder = write(tmp_path, family, "QuestionAnswering")
    ours, questions, contexts = load(folder), ["word1 word2", "word4"], [LONG, "word7"]
    encoded = ours.tokenizer.encode_pairs(questions, contexts, max_length=64)
    batch = pack_ids([ids for ids, _ in encoded], [segments for _, segments in encoded])
    with torch.no_grad():
        out = theirs(folder, "ForQuestionAnswering")(questions, contexts)
    expected = torch.stack([out.start_logits, out.end_logits], -1)
    for row, found in enumerate(batch.split(ours.engine.tokens(batch))):
        np.testing.assert_allclose(found, expected[row, : len(found)], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fine_tuned_model_is_read_by_transformers_and_an_interruption_changes_no_bit(tiny_task, monkeypatch, family):
    """From the base model, with dropout, so that the new head and every draw must be the same."""
    tiny_task.model = write(tiny_task.folder / family, family, "SequenceClassification")
    config = json.loads((tiny_task.model / "config.json").read_text())
    config["architectures"] = [f"{FAMILIES[family][0]}Model"]
    (tiny_task.model / "config.json").write_text(json.dumps(config))

    def run(out):
        finetune(load_recipe(tiny_task.recipe(out, steps=6, eval_every=3), kind=FinetuneRecipe))

    run("whole")
    accumulate, calls = FinetuneObjective.accumulate, []

    def fails_in_step_5(*arguments):
        calls.append(0)
        if len(calls) == 5:
            raise RuntimeError("power failure")
        return accumulate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FinetuneObjective, "accumulate", fails_in_step_5)
        with pytest.raises(RuntimeError, match="power failure"):
            run("resumed")
    run("resumed")
    folder = tiny_task.folder / "whole" / "model"
    weights = load_file(folder / "model.safetensors")
    again = load_file(tiny_task.folder / "resumed" / "model" / "model.safetensors")
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    before = load_file(tiny_task.model / "model.safetensors")
    bias = "mpnet.encoder.relative_attention_bias.weight"
    assert (family == "mpnet") == (bias in weights)
    assert all(not torch.equal(weights[name], before[name]) for name in weights if "layer.0" in name or name == bias)
    with torch.no_grad():
        found = [one.probabilities for one in load(folder).classify(PAIRS, PAIRS[::-1])]
        expected = theirs(folder, "ForSequenceClassification")(PAIRS, PAIRS[::-1]).logits.softmax(-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


CANNOT = {
    "modernbert": ("bert", {"model_type": "modernbert"}, "expected one of bert, roberta, xlm-roberta, camembert, "),
    "relative": ("mpnet", {}, "cannot generate; use a model of one of bert, roberta, xlm-roberta, camembert, "),
    "untied": ("distilbert", {"tie_word_embeddings": False}, "the mlm head has an output table of its own"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_a_model_that_cannot_be_trained_is_rejected_before_data_is_read(tiny_task, opens, case):
    """With the families that can."""
    family, change, message = CANNOT[case]
    recipe = json.loads(tiny_task.recipe().read_text())
    folder = tiny_task.model
    if family != "bert":
        folder = write(tiny_task.folder / family, family, "MaskedLM")
        recipe["task"] = {"kind": "seq2seq", "name": "seq2seq", "train": recipe["task"]["train"]}
        recipe |= {"model": str(folder), "train": {"steps": 1}}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    path = tiny_task.folder / "other.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises((DataError, UsageError)) as caught:
        finetune(load_recipe(path, kind=FinetuneRecipe))
    assert message in str(caught.value)
    assert opens[tiny_task.folder / "train.jsonl"] == 0


def test_a_model_with_relative_positions_encodes_but_does_not_generate(tmp_path):
    model = load(write(tmp_path, "mpnet", "MaskedLM"))
    assert model.encode(["word1"]).shape == (1, 32)
    with pytest.raises(UsageError) as caught:
        model.generate(["word1"])
    assert str(caught.value) == (
        "mpnet models have relative positions and cannot generate; use a model of one of bert, roberta, xlm-roberta, "
        "camembert, distilbert, electra"
    )
    headless = write(tmp_path / "headless", "mpnet", "SequenceClassification")
    with pytest.raises(UsageError, match="mpnet models have relative positions and cannot generate"):
        load(headless).generate(["word1"])


def test_a_folder_that_states_an_mlm_head_without_its_weights_encodes_without_a_word(tmp_path, caplog):
    """As sentence models often do."""
    folder = write(tmp_path, "mpnet", "MaskedLM")
    torch.manual_seed(2)
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    weights = tmp_path / "bare" / "model.safetensors"
    expected = load(folder).encode(TEXTS)
    caplog.clear()
    weights.replace(folder / "model.safetensors")
    model = load(folder)
    assert (model.head, caplog.messages) == (None, [])
    np.testing.assert_array_equal(model.encode(TEXTS), expected)


def test_an_output_table_of_its_own_is_left_out_with_a_warning_or_rejected_where_it_matters(tmp_path, caplog):
    folder = write(tmp_path, "distilbert", "MaskedLM")
    expected = load(folder).encode(TEXTS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    caplog.clear()
    model = load(folder)
    untied = (
        f"{folder}/config.json: tie_word_embeddings is false: the mlm head has an output table of its own, which is "
        "not supported; use a model whose output table is its word table, or one without an mlm head"
    )
    assert caplog.messages == [f"{untied}; the encoder is loaded without it"]
    np.testing.assert_array_equal(model.encode(TEXTS), expected)
    with pytest.raises(UsageError, match="it has no trained head"):
        model.generate(["word1"])
    with pytest.raises(DataError) as caught:
        read_model(folder, head="mlm")
    assert str(caught.value) == untied
    caplog.clear()
    assert read_model(folder, head="span").head is not None  # the flag changes nothing there
    assert "tie_word_embeddings" not in caplog.text
