"""The texts of the workloads, and the operations of an encoder."""

from __future__ import annotations

import pytest

from minilm.bench.workloads import Work, encode_workloads, paragraphs, texts_of_file, work_of
from minilm.errors import DataError, UsageError
from minilm.model.config import EncoderConfig
from minilm.text.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer with one token per word."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    return Tokenizer.load(tmp_path / "vocab.txt")


def test_operations_of_the_published_shape():
    """21.2 million per token in the linear maps, 9.2 thousand for each token that a token attends to."""
    work = work_of(EncoderConfig.preset("L6-H384"), [10, 20])
    assert work.linear == 30 * 21_233_664
    assert work.attention == (10**2 + 20**2) * 9_216
    assert work.operations == work.linear + work.attention


def test_the_floor_needs_the_peak_of_the_precision():
    work = Work(linear=4 * 10**9, attention=2 * 10**9)
    peaks = {"fp32": 1.0, "bf16": 2.0, "int8": 4.0}
    assert [work.least_seconds(name, peaks) for name in peaks] == [6.0, 3.0, 2.0]
    assert work.least_seconds("int8", {"fp32": 1.0, "int8": 4.0}) == 3.0
    assert work.least_seconds("bf16", {"fp32": 1.0}) is None
    assert work.least_seconds("fp32", {}) is None


def test_workloads_have_the_sizes_that_they_name(tokenizer):
    texts = ["a b c d e f g h"] * 150 + ["a b"]
    found = {one.name: one for one in encode_workloads(texts, tokenizer, max_tokens=512)}
    sizes = {name: {len(call) for call in one.calls} for name, one in found.items()}
    assert sizes == {
        "151 in one call": {151},
        "32 a call": {32},
        "1 a call": {1},
        "512 tokens": {8},
        "10 tokens, p50": {1},
        "128 tokens, p50": {1},
    }
    lengths = {name: set(one.lengths) for name, one in found.items()}
    assert lengths["151 in one call"] == {10, 4}
    assert lengths["512 tokens"] == {512}
    assert lengths["10 tokens, p50"] == {10}
    assert lengths["128 tokens, p50"] == {128}
    assert {name for name, one in found.items() if one.is_latency} == {"10 tokens, p50", "128 tokens, p50"}
    assert found["151 in one call"].tokens == 150 * 10 + 4


def test_workloads_fit_into_a_small_model_and_one_short_text(tokenizer):
    """A prompt counts; what is longer than the model allows is left out."""
    found = {one.name: set(one.lengths) for one in encode_workloads(["a"], tokenizer, max_tokens=64, prompt="b c ")}
    assert found == {
        "1 in one call": {5},
        "32 a call": {5},
        "1 a call": {5},
        "64 tokens": {64},
        "10 tokens, p50": {10},
    }


def test_paragraphs_are_many_and_in_a_fixed_order():
    found = paragraphs()
    assert len(found) > 1000
    assert found == paragraphs()
    assert len(set(found)) == len(found)


def test_texts_of_a_file(tmp_path, caplog):
    (tmp_path / "texts.txt").write_text("one\n\ntwo\n")
    assert texts_of_file(tmp_path / "texts.txt") == ["one", "two"]
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n" * 9 + b"tea\n")
    assert texts_of_file(tmp_path / "latin.txt") == ["tea"], "bad rows are skipped and counted, however many"
    assert "9 bad rows were skipped" in caplog.text
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt has no text; expected at least one"):
        texts_of_file(tmp_path / "empty.txt")
    with pytest.raises(UsageError, match="gone"):
        texts_of_file(tmp_path / "gone.txt")
