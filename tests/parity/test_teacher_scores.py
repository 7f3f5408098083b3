"""The stored scores of a teacher are those of sentence-transformers: raw scores of a cross-encoder, similarities."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.files.regular import sha256_texts
from minilm.finetune.score_teacher import find_score_teacher
from minilm.finetune.sweep import finetune
from minilm.finetune.teacher_scores import TeacherScores
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.train.distributed import ALONE

sentence_transformers = pytest.importorskip("sentence_transformers")

PAIRS = [
    ("word1 word2", "word7 word30"),
    ("word1 word2", "word31"),
    ("word3", "word32 " * 80),
    ("word1 word2", "word7 word30"),
    ("word9 " * 20, "word7 " * 50),
    ("unknown", "word94"),
]


def stored(folder: Path, root: Path) -> np.ndarray:
    found = TeacherScores(find_score_teacher(str(folder)), root, texts=sha256_texts(chain.from_iterable(PAIRS)))
    found.fill([(pair, "here") for pair in PAIRS], ALONE)
    return found.all_scores()


def raw(folder: Path) -> np.ndarray:
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    return model.predict(PAIRS, activation_fn=torch.nn.Identity())


def assert_equal(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid"])
def test_a_cross_encoder_gives_its_scores_before_the_activation(tiny_task, tmp_path, activation):
    plain = tiny_task.write_classifier("plain", seed=3, num_labels=1)
    model = sentence_transformers.CrossEncoder(
        str(plain), activation_fn=getattr(torch.nn, activation)(), device="cpu", max_length=24
    )
    model.save_pretrained(str(tmp_path / "saved"))
    assert_equal(stored(tmp_path / "saved", tmp_path), raw(tmp_path / "saved"))


def test_a_tokenizer_of_its_own_reads_the_texts(tiny_task, tmp_path):
    """Words have other ids, so that those of the trained model would give other scores."""
    words = tuple(reversed(tiny_task.distillation.words))
    scores = {}
    for name, order in (("same", tiny_task.distillation.words), ("other", words)):
        tiny_task.distillation.write_teacher(words=order)
        folder = tiny_task.write_classifier(name, seed=3, num_labels=1)
        scores[name] = stored(folder, tmp_path)
        assert_equal(scores[name], raw(folder))
    assert np.abs(scores["same"] - scores["other"]).max() > 0.01


def test_a_cross_encoder_with_mean_pooling_does_too(tiny_task, tmp_path):
    """Its last weights are in a module, which counts for the key."""
    recipe = tiny_task.rerank_recipe("bce", steps=6, eval_every=6, task={"pooling": "mean"})
    finetune(load_recipe(recipe, kind=FinetuneRecipe))
    folder = tiny_task.folder / "run" / "model"
    assert_equal(stored(folder, tmp_path), raw(folder))
    changed = shutil.copytree(folder, tmp_path / "changed")
    [file] = changed.glob("*_Dense/model.safetensors")
    from safetensors.numpy import load_file, save_file

    save_file({name: 2 * array for name, array in load_file(file).items()}, file)
    assert_equal(stored(changed, tmp_path), raw(changed))
    assert len({path.name for path in tmp_path.glob("scores-*")}) == 2


@pytest.mark.parametrize("similarity", [None, "dot", "euclidean", "manhattan"])
def test_an_embedding_model_gives_its_similarity_with_its_prompts(tiny_task, tmp_path, similarity):
    folder = shutil.copytree(tiny_task.model, tmp_path / "vectors")
    prompts = {"query": "word5 word6 ", "document": "word8 "}
    settings = EmbeddingSettings(prompts=prompts, similarity=similarity, max_tokens=24)
    write_embedding(folder, settings, hidden_size=48)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    queries, texts = (theirs.encode_query, theirs.encode_document)
    expected = theirs.similarity_pairwise(queries([one for one, _ in PAIRS]), texts([one for _, one in PAIRS]))
    assert_equal(stored(folder, tmp_path), expected.numpy())
    assert json.loads(next(tmp_path.glob("scores-*/manifest.json")).read_text())["texts"] == len(PAIRS)
