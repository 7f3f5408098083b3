"""Proves what `minilm.load(...)` and `encode` promise: shapes, order, any iterable, and clear errors."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import minilm
from minilm.errors import DataError, UsageError
from minilm.files.json import write_json
from minilm.infer.vector_precision import STORED_TYPES
from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import read_embedding, write_embedding
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.model.metadata import read_config
from minilm.model.packing import pack
from minilm.model.vector_modules import Normalize
from minilm.model.vector_ranges import VECTOR_RANGES, write_vector_ranges
from minilm.text.tokenizer import Tokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnop"]
TEXTS = ["a b c", "", "d", "a b c d e f g h", "p o n m", "d", "b a", "a b c d e f g h i j k l m n o p"]


@pytest.fixture
def folder(tmp_path):
    """A tiny random model with tokenizer and pooling."""
    config = EncoderConfig(
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        intermediate_size=24,
        vocab_size=len(VOCAB),
        max_positions=32,
        initializer_range=0.3,
    )
    encoder = Encoder(config)
    encoder.reset(torch.Generator().manual_seed(0))
    write_model(Model(encoder), tmp_path)
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB))
    write_embedding(tmp_path, EmbeddingSettings(modules=(Normalize(),), max_tokens=12), hidden_size=16)
    return tmp_path


@pytest.fixture
def model(folder):
    return minilm.load(folder)


# --- vectors -------------------------------------------------------------------------------------


def test_one_vector_per_text_in_the_order_given(model):
    vectors = model.encode(TEXTS)
    assert vectors.shape == (8, 16)
    assert vectors.dtype == np.float32
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    np.testing.assert_allclose(vectors[2], vectors[5], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_rest_of_a_batch_does_not_change_a_vector(model):
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(8), 9))
    vectors = model.encode([TEXTS[index] for index in order])
    np.testing.assert_allclose(vectors, model.encode(TEXTS)[order], atol=1e-5)


def test_dimensions_cut_and_scale_again_only_where_the_folder_normalizes(folder, model):
    cut = model.encode(TEXTS, dimensions=5)
    whole = model.encode(TEXTS)[:, :5]
    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    write_embedding(folder, EmbeddingSettings(max_tokens=12), hidden_size=16)
    bare = minilm.load(folder)
    np.testing.assert_array_equal(bare.encode(TEXTS, dimensions=5), bare.encode(TEXTS)[:, :5])


@pytest.mark.parametrize("dimensions", [0, 17, True, 2.0])
def test_dimensions_that_the_vectors_do_not_have(model, dimensions):
    with pytest.raises(UsageError, match=f"dimensions is {dimensions}; expected 1 to 16"):
        model.encode(TEXTS, dimensions=dimensions)


@pytest.mark.parametrize(("vectors", "width"), [("fp16", 16), ("int8", 16), ("binary", 2)])
def test_each_precision_of_one_text_several_and_none(folder, model, vectors, width):
    write_vector_ranges(folder / VECTOR_RANGES, np.stack([np.full(16, -1), np.full(16, 1)]).astype(np.float32))
    several = model.encode(TEXTS, vectors=vectors)
    assert several.shape == (8, width)
    assert several.dtype == STORED_TYPES[vectors]
    np.testing.assert_array_equal(model.encode(TEXTS[0], vectors=vectors), several[0])
    none = model.encode([], vectors=vectors)
    assert (none.shape, none.dtype) == ((0, width), several.dtype)


def test_a_precision_that_does_not_exist(model):
    with pytest.raises(UsageError, match="vectors is 'int4'; expected 'fp32', 'fp16', 'int8', 'binary'"):
        model.encode(TEXTS, vectors="int4")


def test_int8_needs_ranges(model):
    with pytest.raises(UsageError, match=r"has no vector_ranges.json, which int8 vectors need; minilm embed"):
        model.encode(TEXTS, vectors="int8")


def test_progress_is_shown_on_request(model, capsys, monkeypatch):
    monkeypatch.setattr("minilm.progress._SECONDS_BETWEEN_LINES", 0)
    model.encode(TEXTS)
    assert capsys.readouterr().err == ""
    model.encode(TEXTS, progress=True)
    assert "encode 8/8" in capsys.readouterr().err


def test_similarity_rejects_what_has_none(folder, model):
    vectors = model.encode(TEXTS)
    with pytest.raises(UsageError, match="found uint8 of shape"):
        model.similarity(vectors, model.encode(TEXTS, vectors="binary"))
    with pytest.raises(UsageError, match="found vectors of 16 and of 5 dimensions"):
        model.similarity(vectors, vectors[:, :5])
    write_embedding(folder, EmbeddingSettings(similarity="maxsim"), hidden_size=16)
    with pytest.raises(UsageError, match="similarity is 'maxsim'; expected 'cosine', 'dot', 'euclidean', 'manhattan'"):
        minilm.load(folder).similarity(vectors, vectors)


def test_a_vector_that_is_not_finite_is_an_error(folder):
    broken = read_model(folder)
    with torch.no_grad():
        broken.encoder.embeddings.norm.bias[0] = float("nan")
    write_model(broken, folder)
    with pytest.raises(DataError, match="text 0: its vector has a value that is not finite"):
        minilm.load(folder).encode(TEXTS)


MANY = 9000  # texts: several chunks that are tokenized together, each of several batches of tokens


@pytest.fixture
def chunks(monkeypatch):
    """How many texts were tokenized together, call by call."""
    sizes = []
    inner = Tokenizer.encode

    def counted(self, texts, *rest, **named):
        sizes.append(len(texts))
        return inner(self, texts, *rest, **named)

    monkeypatch.setattr(Tokenizer, "encode", counted)
    return sizes


@pytest.fixture
def batches(model, monkeypatch):
    """How many sequences and tokens were computed together, batch by batch."""
    sizes = []
    inner = model.engine.pooled

    def counted(batch, *rest, **named):
        sizes.append((batch.num_sequences, batch.num_tokens))
        return inner(batch, *rest, **named)

    monkeypatch.setattr(model.engine, "pooled", counted)
    return sizes


def many():
    return [TEXTS[number % 8] for number in range(MANY)]


@pytest.mark.slow
def test_every_text_of_a_long_list_gets_its_vector(model, chunks, batches):
    expected = model.encode(TEXTS)[np.arange(MANY) % 8]
    chunks.clear()
    batches.clear()
    np.testing.assert_allclose(model.encode(many()), expected, atol=1e-5)
    assert sum(chunks) == sum(sequences for sequences, _ in batches) == MANY
    assert len(chunks) > 2
    assert len(batches) > len(chunks)
    assert max(tokens for _, tokens in batches) <= model.engine.tokens_per_batch


@pytest.mark.slow
def test_any_iterable_is_read_chunk_by_chunk(model, chunks):
    """A stream is never read further than what is tokenized next."""
    taken, ahead = [], []

    def stream():
        for text in many():
            ahead.append(len(taken) - sum(chunks))
            taken.append(text)
            yield text

    expected = model.encode(TEXTS)[np.arange(MANY) % 8]
    chunks.clear()
    np.testing.assert_allclose(model.encode(stream()), expected, atol=1e-5)
    assert taken == many()
    assert max(ahead) < max(chunks) < MANY / 2
    np.testing.assert_allclose(model.encode(tuple(TEXTS)), expected[:8], atol=1e-5)
    np.testing.assert_allclose(model.encode(dict.fromkeys(TEXTS[:5]).keys()), expected[:5], atol=1e-5)


@pytest.mark.slow
def test_every_pair_of_a_long_list_is_classified(folder, chunks):
    """The second texts stay aligned with the first, chunk by chunk."""
    encoder = Encoder(read_config(folder))
    encoder.reset(torch.Generator().manual_seed(0))
    head = new_head("classification", encoder.config, num_labels=3, generator=torch.Generator().manual_seed(1))
    write_model(Model(encoder, head), folder, head="classification", labels=["x", "y", "z"])
    model = minilm.load(folder)
    seconds = TEXTS[::-1]
    expected = [one.probabilities for one in model.classify(TEXTS, seconds)]
    assert len(set(expected)) > 5
    chunks.clear()
    found = model.classify(iter(many()), (seconds[number % 8] for number in range(MANY)))
    assert sum(chunks) == 2 * MANY
    assert max(chunks) < MANY / 2
    rows = np.array([one.probabilities for one in found])
    np.testing.assert_allclose(rows, np.array(expected)[np.arange(MANY) % 8], atol=1e-5)


@pytest.mark.parametrize("nothing", [[], (), iter([])])
def test_no_texts_give_no_rows(model, nothing):
    vectors = model.encode(nothing)
    assert vectors.shape == (0, 16)
    assert vectors.dtype == np.float32


def test_an_empty_text_has_the_vector_of_its_special_tokens(model):
    vector = model.encode([""])
    assert bool(np.isfinite(vector).all())
    np.testing.assert_allclose(vector, model.encode(["   "]), atol=1e-6)


def test_long_texts_are_truncated_where_the_folder_says(model, caplog):
    cut, short = "a b c d e f g h i j", "a b c d e f g h i j k l m n o p"
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(model.encode([cut]), model.encode([short]), atol=1e-6)
    assert caplog.messages == ["1 of 1 texts were longer than 12 tokens and were truncated (first: text 0)"]
    caplog.clear()
    model.encode([short])
    assert not caplog.messages, "once per model"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_and_scaling_are_those_of_the_folder(folder, pooling, normalize):
    shutil.rmtree(folder / "1_Pooling")
    modules = (Normalize(),) if normalize else ()
    settings = EmbeddingSettings(pooling=(pooling,), modules=modules, max_tokens=12)
    write_embedding(folder, settings, hidden_size=16)
    model = minilm.load(folder)
    assert model.embedding == settings
    packed = pack(model.tokenizer.encode(["a b c"]))
    with torch.inference_mode():
        hidden = read_model(folder).encoder(packed)
    expected = hidden[0] if pooling == "cls" else hidden.mean(0)
    expected = expected / expected.norm() if normalize else expected
    np.testing.assert_allclose(model.encode(["a b c"])[0], expected.numpy(), atol=1e-5)


def test_bf16_vectors_point_the_same_way(folder, model):
    vectors = minilm.load(folder, engine="torch", precision="bf16").encode(TEXTS)
    assert vectors.dtype == np.float32
    assert float((vectors * model.encode(TEXTS)).sum(1).min()) > 0.999


def test_columns_of_other_libraries_are_encoded_and_classified_as_lists(model, folder):
    import pandas
    import pyarrow

    expected = model.encode(TEXTS)
    for column in (np.array(TEXTS), pandas.Series(TEXTS), pyarrow.array(TEXTS)):
        np.testing.assert_array_equal(model.encode(column), expected)
    head = new_head("classification", model.config, num_labels=3, generator=torch.Generator().manual_seed(1))
    write_model(Model(read_model(folder).encoder, head), folder, head="classification", labels=["x", "y", "z"])
    classifier = minilm.load(folder)
    labels = classifier.classify(TEXTS, TEXTS[::-1])
    assert classifier.classify(pandas.Series(TEXTS), pyarrow.array(TEXTS[::-1])) == labels
    for wrong in ({"a": 1}, {"a"}, pandas.DataFrame({"a": TEXTS}), b"a"):
        with pytest.raises(UsageError, match=f"^classify expects a list of texts, not {type(wrong).__name__}"):
            classifier.classify(TEXTS, wrong)


def test_one_text_gives_one_vector(model):
    one = model.encode("a b", prompt="c ")
    assert one.shape == (16,)
    np.testing.assert_array_equal(one, model.encode(["a b"], prompt="c ")[0])


def test_the_representation_says_what_a_model_does(model, tiny_task):
    parameters = model.config.num_parameters()  # small models are counted in full
    assert repr(model) == (
        f"<minilm model {model.folder}: bert, 2 layers of width 16, {parameters:,} parameters, "
        "encodes texts as 16 numbers, up to 12 tokens>"
    )
    several = minilm.load(tiny_task.write_classifier("several", seed=1, labels=list("abcdefghij")))
    assert "classifies texts as a | b | c | d | e | f | g | h | ..., up to" in repr(several)
    found = several.classify(["word1 word2"])[0]
    assert repr(found) == f"<Classified {found.label!r}, probability {found.score:.3f}>"
    number = minilm.load(tiny_task.write_classifier("number", seed=1, num_labels=1))
    assert "predicts a number, up to" in repr(number)
    found = number.classify(["word1 word2"])[0]
    assert repr(found) == f"<Classified {found.score:.4g}>"


# --- rejections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("item", "kind"), [(None, "NoneType"), (3, "int"), (b"a", "bytes")])
def test_items_that_are_not_strings_are_rejected_with_their_number(model, item, kind):
    with pytest.raises(UsageError) as caught:
        model.encode(["a", "b", item])
    assert str(caught.value) == f"text 2: found {kind}; encode expects strings"


def test_an_unknown_engine_is_rejected_with_the_known_ones(folder):
    with pytest.raises(UsageError) as caught:
        minilm.load(folder, engine="nonsense")
    assert str(caught.value) == "engine is 'nonsense'; expected 'auto', 'native', 'torch'"


def test_an_unknown_precision_is_rejected(folder):
    with pytest.raises(UsageError) as caught:
        minilm.load(folder, precision="fp16")
    assert str(caught.value) == "precision is 'fp16'; expected 'fp32', 'bf16', 'int8'"


def test_a_missing_folder_is_rejected(tmp_path):
    with pytest.raises(DataError) as caught:
        minilm.load(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path}/none: no such model folder"


@pytest.mark.parametrize("change", [1, -1])
def test_a_tokenizer_of_another_size_is_rejected(folder, change):
    tokens = VOCAB[:-1] if change < 0 else [*VOCAB, "q"]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    with pytest.raises(DataError, match=rf"has {21 + change} tokens but {folder} has 21: they do not match"):
        minilm.load(folder)


# --- the dialect of sentence-transformers --------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [EmbeddingSettings(pooling=("cls",), max_tokens=7), EmbeddingSettings(modules=(Normalize(),))]
)
def test_the_dialect_survives_writing(tmp_path, settings):
    write_embedding(tmp_path, settings, hidden_size=8)
    assert read_embedding(tmp_path, model_max_tokens=512) == settings


def test_a_folder_without_dialect_means_mean_pooling_without_scaling(tmp_path):
    assert read_embedding(tmp_path, model_max_tokens=40) == EmbeddingSettings(max_tokens=40)


def test_the_shortest_limit_of_all_files_counts(tmp_path):
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 100})
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 50})
    assert read_embedding(tmp_path, model_max_tokens=512).max_tokens == 50
    assert read_embedding(tmp_path, model_max_tokens=20).max_tokens == 20
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": None})
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 1e30})
    assert read_embedding(tmp_path, model_max_tokens=512).max_tokens == 512


def test_the_files_of_a_model_are_enough_for_its_tokenizer(folder):
    Tokenizer.load(folder).save(folder)
    assert minilm.load(folder).encode(["a"]).shape == (1, 16)


@pytest.mark.slow
def test_the_embedded_model_has_a_name(real_model_dir):
    embedded = minilm.load("embedded")
    assert np.array_equal(embedded.encode(["a text"]), minilm.load(real_model_dir).encode(["a text"]))
    assert "bert, 6 layers of width 384, 22.7 million parameters, encodes texts as 384 numbers" in repr(embedded)


@pytest.mark.parametrize("path", ["./embedded", Path("embedded")])
def test_a_folder_may_have_that_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="embedded: no such model folder"):
        minilm.load(path)
