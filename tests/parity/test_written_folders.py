"""Proves that what is written of an embedding model reads back identically and is the same in sentence-transformers."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minilm
from minilm.errors import DataError
from minilm.model.activations import Activation
from minilm.model.embedding import EmbeddingSettings, PoolingMode
from minilm.model.embedding_files import read_embedding, write_embedding
from minilm.model.vector_modules import Dense, LayerNorm, Normalize

sentence_transformers = pytest.importorskip("sentence_transformers")

WIDTH = 16
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "A", "B"]
TEXTS = ["a b c", "", "A B [MASK]", "c b a " * 12]


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory, write_encoder):
    return write_encoder(tmp_path_factory.mktemp("encoder"), vocabulary=VOCABULARY, width=WIDTH)


@st.composite
def chains(draw):
    """Settings with random modules after the pooling, which fit each other."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))

    def weights(*shape):
        return generator.standard_normal(shape, dtype=np.float32)

    pooling = tuple(draw(st.lists(st.sampled_from(get_args(PoolingMode)), min_size=1, max_size=2, unique=True)))
    width, chain = WIDTH * len(pooling), []
    for kind in draw(st.lists(st.sampled_from(["Dense", "LayerNorm", "Normalize"]), max_size=4)):
        if kind == "Dense":
            out = draw(st.sampled_from([width, 1, 5]))
            residual = draw(st.sampled_from([None, "identity" if out == width else weights(out, width)]))
            bias, activation = draw(st.sampled_from([None, weights(out)])), draw(st.sampled_from(get_args(Activation)))
            matrix = weights(width, out).T  # not contiguous, as after training
            chain.append(Dense(weight=matrix, bias=bias, activation=activation, residual=residual))
            width = out
        else:
            chain.append(Normalize() if kind == "Normalize" else LayerNorm(weight=weights(width), bias=weights(width)))
    prompts = draw(st.dictionaries(st.sampled_from(["query", "document", "sts"]), st.sampled_from(["a b ", ""])))
    return EmbeddingSettings(
        pooling=pooling,
        modules=tuple(chain),
        max_tokens=draw(st.integers(3, 32)),
        lowercase=draw(st.booleans()),
        include_prompt=draw(st.booleans()),
        prompts=prompts,
        default_prompt_name=draw(st.sampled_from([None, *prompts])),
        truncate_dim=draw(st.sampled_from([None, 2])),
        similarity=draw(st.sampled_from([None, "cosine", "dot", "euclidean", "manhattan"])),
    )


def plain(settings):
    """What compares by value."""

    def value(part):
        return part.tolist() if isinstance(part, np.ndarray) else part

    listed = [
        [type(module), *(value(getattr(module, name)) for name in module.__slots__ if name != "where")]
        for module in settings.modules
    ]
    return listed, replace(settings, modules=())


@given(settings=chains())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_reads_back_identically_and_has_the_same_vectors_there(encoder_dir, settings):
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(encoder_dir, Path(parent) / "written"))
        write_embedding(folder, settings, hidden_size=WIDTH)
        assert plain(read_embedding(folder, model_max_tokens=32)) == plain(settings)
        theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        assert theirs.similarity_fn_name == (settings.similarity or "cosine")
        assert theirs.get_embedding_dimension() == settings.width(WIDTH)
        ours = minilm.load(folder)
        np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=1e-5)
        for role in settings.prompts:
            expected = theirs.encode(TEXTS, prompt_name=role)
            np.testing.assert_allclose(ours.encode(TEXTS, role=role), expected, atol=1e-5, rtol=1e-5)


def test_modules_that_do_not_fit_are_not_written(tmp_path):
    settings = EmbeddingSettings(modules=(Dense(weight=np.ones((4, WIDTH + 1), np.float32)),))
    with pytest.raises(DataError, match="this model: Dense expects vectors of width 17, but those before it have wid"):
        write_embedding(tmp_path, settings, hidden_size=WIDTH)
    assert not (tmp_path / "modules.json").exists()
