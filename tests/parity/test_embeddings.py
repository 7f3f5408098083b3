"""Proves that `encode` gives the vectors of sentence-transformers, and that folders work both ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import minilm
from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.encoder import Encoder
from minilm.model.heads import Model
from minilm.model.vector_modules import Normalize
from minilm.text.tokenizer import Tokenizer

sentence_transformers = pytest.importorskip(
    "sentence_transformers",
    reason="sentence-transformers is not installed: pip install sentence-transformers",
)
transformers = pytest.importorskip("transformers")

TEXTS = [
    "A man is playing a guitar.",
    "",
    "Ünïcode, ÇA VA? 日本語 \U0001f600 naïve café",
    "short",
    "The quick brown fox jumps over the lazy dog. " * 5,
    "A man is playing a guitar.",
    "[MASK] and [SEP] as text; tabs\tand\nnew lines \x00 end",
    "far too long " * 400,
    "one two three",
]
TOLERANCE = {"atol": 1e-5, "rtol": 0}
SETTINGS = [
    EmbeddingSettings(pooling=(pooling,), modules=(Normalize(),) if normalize else (), max_tokens=max_tokens)
    for pooling, normalize, max_tokens in (
        ("mean", True, 64),
        ("mean", False, 130),
        ("cls", True, 12),
        ("cls", False, 64),
    )
]


def assert_same_steps(found, expected):
    """Equal but for what sentence-transformers adds on saving: empty prompts, a similarity."""
    assert replace(found, prompts={}, similarity=None) == replace(expected, prompts={}, similarity=None)


@pytest.fixture(scope="module")
def theirs_of():
    def load(folder):
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    return load


@pytest.fixture(scope="module")
def real_vectors(real_model_dir, theirs_of):
    return theirs_of(real_model_dir).encode(TEXTS)


@pytest.fixture
def written(tmp_path, real_model_dir):
    """A folder written here, with random weights, the real tokenizer and a given dialect."""

    def make(settings):
        folder = tmp_path / "written"
        folder.mkdir()
        sizes = {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "initializer_range": 0.3}
        encoder = Encoder(EncoderConfig(**sizes))
        encoder.reset(torch.Generator().manual_seed(0))
        write_model(Model(encoder), folder)
        Tokenizer.load(real_model_dir).save(folder)
        write_embedding(folder, settings, hidden_size=32)
        return folder

    return make


def test_real_weights_give_the_vectors_of_sentence_transformers(real_model_dir, real_vectors):
    vectors = minilm.load(real_model_dir).encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(vectors, real_vectors, **TOLERANCE)


def test_bf16_vectors_point_the_same_way(real_model_dir, real_vectors):
    vectors = minilm.load(real_model_dir, engine="torch", precision="bf16").encode(TEXTS)
    assert vectors.dtype == np.float32
    assert float((vectors * real_vectors).sum(1).min()) > 0.999


def test_a_folder_saved_by_sentence_transformers_loads_here(tmp_path, real_model_dir, real_vectors, theirs_of):
    theirs_of(real_model_dir).save(str(tmp_path / "saved"))
    model = minilm.load(tmp_path / "saved")
    assert_same_steps(model.embedding, minilm.load(real_model_dir).embedding)
    np.testing.assert_allclose(model.encode(TEXTS), real_vectors, **TOLERANCE)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_folder_written_here_gives_the_same_vectors_there(written, theirs_of, settings):
    folder = written(settings)
    model = minilm.load(folder)
    assert model.embedding == settings
    theirs = theirs_of(folder)
    assert theirs.max_seq_length == settings.max_tokens
    np.testing.assert_allclose(model.encode(TEXTS), theirs.encode(TEXTS), **TOLERANCE)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_so_does_the_folder_that_sentence_transformers_saves_from_it(written, tmp_path, theirs_of, settings):
    first = written(settings)
    theirs_of(first).save(str(tmp_path / "saved"))
    model = minilm.load(tmp_path / "saved")
    assert_same_steps(model.embedding, settings)
    np.testing.assert_allclose(model.encode(TEXTS), minilm.load(first).encode(TEXTS), **TOLERANCE)


def test_a_folder_written_here_loads_in_transformers(written):
    folder = written(EmbeddingSettings(max_tokens=128))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    expected = (hidden * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(minilm.load(folder).encode(TEXTS), expected.numpy(), **TOLERANCE)


def test_a_folder_without_the_dialect_is_pooled_as_sentence_transformers_would(written, theirs_of):
    folder = written(EmbeddingSettings(pooling=("cls",), modules=(Normalize(),)))
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    model = minilm.load(folder)
    assert (model.embedding.pooling, model.embedding.modules) == (("mean",), ())
    short = [text for text in TEXTS if len(text) < 100]
    np.testing.assert_allclose(model.encode(short), theirs_of(folder).encode(short), **TOLERANCE)


def test_a_roberta_style_folder_gives_the_same_vectors_there(tmp_path, theirs_of):
    """Positions that begin after the padding id, byte-level tokens, more rows than tokens."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.add_special_tokens(pieces[:5])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=62,
        **{
            "cls_token": "<s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
    )
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=len(pieces) + 37,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=64,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.3,
    )
    transformers.RobertaModel(config).save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    model = minilm.load(tmp_path)
    assert model.embedding.max_tokens == 62
    texts = [text for text in TEXTS if "\x00" not in text]
    np.testing.assert_allclose(model.encode(texts), theirs_of(tmp_path).encode(texts), atol=2e-5, rtol=0)


@pytest.mark.parametrize("dimensions", [1, 24, 384])
def test_the_cut_is_that_of_truncate_dim_then_normalized(real_model_dir, theirs_of, dimensions):
    theirs = theirs_of(real_model_dir).encode(TEXTS, truncate_dim=dimensions, normalize_embeddings=True)
    ours = minilm.load(real_model_dir).encode(TEXTS, dimensions=dimensions)
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean", "manhattan", None])
def test_similarity(written, theirs_of, kind):
    folder = written(EmbeddingSettings(similarity=kind))
    model, theirs = minilm.load(folder), theirs_of(folder)
    vectors = model.encode(TEXTS)
    for first, second in ((vectors, vectors[:4]), (vectors[0], vectors), (vectors.astype(np.float16), vectors)):
        expected = theirs.similarity(first, second).numpy()
        found = model.similarity(first, second)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=1e-5)
