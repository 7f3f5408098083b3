"""A teacher of text vectors that only transformers runs gives the vectors of sentence-transformers' own `encode`."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.errors import DataError, UsageError
from minilm.files.regular import sha256_texts
from minilm.finetune.embed_teacher import TransformersEncoder, find_teacher
from minilm.finetune.teacher_vectors import TeacherVectors
from minilm.train.distributed import ALONE

transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.models")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
TEXTS = ["a b c", "", "d A b [MASK]", "f e d c b a " * 9, "a", "h g f e d", "b b b b"]
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
FAMILIES = {
    # class: (settings, how it runs)
    "DebertaV2": (DISENTANGLED, "transformers, padded"),
    "MegatronBert": ({}, "transformers, padded"),  # a norm after the last layer
    "ConvBert": ({"embedding_size": 16}, "transformers, by length"),  # reads its padding
    "RobertaPreLayerNorm": ({"pad_token_id": 0}, "transformers, packed"),  # the same, packed
}
WIDTH = 20
SLOWER = "it does not run packed, which is slower: in the first 7 texts it computes"


@pytest.fixture
def saved(tmp_path, sizes, randomized):
    """`saved(class, ...)`: a folder that sentence-transformers saves, and the model as it loads that again."""

    def make(name, *, pooling="mean", prompts=None, lowercase=False, **settings):
        parts = tmp_path / f"{name}-parts"
        ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        config = getattr(transformers, f"{name}Config")(**{**sizes, "vocab_size": len(VOCABULARY), **ids, **settings})
        randomized(transformers.AutoModel.from_config(config)).save_pretrained(parts)
        (parts / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
        transformers.BertTokenizerFast(str(parts / "vocab.txt"), do_lower_case=False).save_pretrained(parts)
        encoder = modules.Transformer(str(parts), max_seq_length=12, do_lower_case=lowercase)
        torch.manual_seed(3)
        dense = modules.Dense(sizes["hidden_size"], WIDTH)  # followed by tanh
        chain = [encoder, modules.Pooling(sizes["hidden_size"], pooling_mode=pooling), dense, modules.Normalize()]
        model = sentence_transformers.SentenceTransformer(modules=chain, device="cpu", prompts=prompts)
        model.save(str(tmp_path / name))
        if lowercase:  # which they forget to save
            file = tmp_path / name / "sentence_bert_config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "do_lower_case": True}))
        return tmp_path / name, sentence_transformers.SentenceTransformer(str(tmp_path / name), device="cpu")

    return make


def teacher_of(folder: Path, root: Path, **more) -> TeacherVectors:
    teacher = find_teacher(str(folder), more.pop("role", None))
    return TeacherVectors(teacher, root, texts=sha256_texts(TEXTS), **{"max_tokens": 64, **more})


@pytest.mark.parametrize("name", FAMILIES)
def test_the_vectors_are_those_of_sentence_transformers(saved, tmp_path, name, caplog):
    settings, engine = FAMILIES[name]
    folder, theirs = saved(name, **settings)
    teacher = teacher_of(folder, tmp_path)
    with caplog.at_level(logging.INFO, "minilm"):
        loaded = teacher.load_teacher()
        found = loaded.encode(TEXTS, TEXTS, prompt=teacher.prompt)
        loaded.encode(TEXTS, TEXTS, prompt=teacher.prompt)
    assert isinstance(loaded, TransformersEncoder)
    assert teacher.width == WIDTH
    np.testing.assert_allclose(found, theirs.encode(TEXTS, batch_size=1), atol=1e-5)
    said = [record.getMessage() for record in caplog.records]
    assert sum(f"computed by {engine}" in one for one in said) == 1
    slower = [one.removeprefix(f"teacher {folder}: ") for one in said if "does not run packed" in one]
    expected = {
        "transformers, packed": [],
        "transformers, padded": [f"{SLOWER} 1.05 times as many tokens as there are, in 5.0 times as many batches"],
        "transformers, by length": [f"{SLOWER} 1.00 times as many tokens as there are, in 6.0 times as many batches"],
    }
    assert slower == expected[engine], "once, with the factors"


def test_pooling_prompts_and_limits_of_the_folder_count(saved, tmp_path):
    prompts = {"query": "h h ", "document": "g "}
    folder, theirs = saved("DebertaV2", pooling="max", prompts=prompts, lowercase=True, **DISENTANGLED)
    for role, prompt in prompts.items():
        teacher = teacher_of(folder, tmp_path, role=role)
        found = teacher.load_teacher().encode(TEXTS, TEXTS, prompt=teacher.prompt)
        np.testing.assert_allclose(found, theirs.encode(TEXTS, prompt=prompt), atol=1e-5)
    teacher = teacher_of(folder, tmp_path, max_tokens=6)
    theirs.max_seq_length = 6
    np.testing.assert_allclose(teacher.load_teacher().encode(TEXTS, TEXTS, prompt=""), theirs.encode(TEXTS), atol=1e-5)


def test_mpnet_runs_on_our_engines(saved, tmp_path):
    folder, theirs = saved("MPNet", pad_token_id=1)
    loaded = teacher_of(folder, tmp_path).load_teacher()
    assert not isinstance(loaded, TransformersEncoder)
    texts = [text for text in TEXTS if "A" not in text]  # the id of [UNK] is MPNet's padding
    np.testing.assert_allclose(loaded.encode(texts, texts, prompt=""), theirs.encode(texts), atol=1e-5)


def test_its_vectors_are_stored_and_read(saved, tmp_path):
    folder, theirs = saved("DebertaV2", **DISENTANGLED)
    teacher = teacher_of(folder, tmp_path)
    teacher.fill(zip(TEXTS, TEXTS, strict=True), ALONE)
    expected = theirs.encode(TEXTS)
    np.testing.assert_allclose(teacher.rows(np.arange(len(TEXTS))), expected, atol=1e-3)  # float16


def test_what_transformers_cannot_run_is_refused_by_name(saved, tmp_path):
    folder, _ = saved("DebertaV2", **DISENTANGLED)
    config = folder / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "model_type": "gpt2"}))
    with pytest.raises(DataError, match=r"the attention of GPT2Model is causal.*choose a bidirectional encoder"):
        teacher_of(folder, tmp_path)
    config.write_text(json.dumps({**values, "vocab_size": 9}))
    with pytest.raises(DataError, match=r"has 13 tokens but .* has 9: they do not match"):
        teacher_of(folder, tmp_path)
    config.write_text(json.dumps(values))
    with pytest.raises(UsageError, match=r"role is 'question'"):
        teacher_of(folder, tmp_path, role="question")
