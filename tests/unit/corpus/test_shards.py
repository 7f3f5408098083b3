"""A built corpus can be read back, does not depend on workers or shard size, and damage is detected."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from minilm.corpus import tokenizing
from minilm.corpus.build import BuildProgress, build_shards
from minilm.corpus.shards import MANIFEST_NAME, Shards
from minilm.errors import DataError, UsageError
from minilm.files.texts import BAD_ROWS, EMPTY_TEXTS
from minilm.tally import Tally
from minilm.text.tokenizer import Tokenizer

TEXTS = [f"the cat {number} sat on the mat ." * (number % 7 + 1) for number in range(200)]


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TEXTS))
    return path


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def documents_of(shards: Shards) -> list[list[int]]:
    return [shards[index].tolist() for index in range(len(shards))]


def test_documents_are_the_tokenized_texts(vocab, texts_file, tmp_path):
    manifest = build_shards([texts_file], tokenizer=vocab, out=tmp_path / "corpus")
    shards = Shards.open(tmp_path / "corpus", verify=True)
    expected = [ids.tolist() for ids in Tokenizer.load(vocab).encode(TEXTS)]
    assert documents_of(shards) == expected
    assert shards[0].dtype == np.int32
    assert shards.lengths.dtype == np.int32
    assert shards.lengths.tolist() == [len(ids) for ids in expected]
    assert (manifest.texts, manifest.documents, manifest.tokens) == (200, 200, sum(map(len, expected)))
    assert manifest.dtype == "uint16"
    assert shards.manifest == manifest
    with pytest.raises(IndexError, match="document 200 of a corpus of 200"):
        shards[200]


def test_long_texts_become_several_documents_without_loss(vocab, texts_file, tmp_path):
    manifest = build_shards([texts_file], tokenizer=vocab, out=tmp_path / "corpus", max_tokens=10)
    shards = Shards.open(tmp_path / "corpus")
    tokenizer = Tokenizer.load(vocab)
    assert shards.lengths.max() == 10
    assert manifest.texts == 200 < manifest.documents == len(shards)
    inner = []
    for ids in documents_of(shards):
        assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
        inner.extend(ids[1:-1])
    assert inner == np.concatenate(tokenizer.encode(TEXTS, special_tokens=False)).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("shard_tokens", [1, 40, 1000])
def test_shard_size_changes_files_not_documents(shard_tokens, vocab, texts_file, tmp_path):
    build_shards([texts_file], tokenizer=vocab, out=tmp_path / "one")
    cut = build_shards([texts_file], tokenizer=vocab, out=tmp_path / "many", shard_tokens=shard_tokens)
    assert all(shard.tokens <= shard_tokens or shard.documents == 1 for shard in cut.shards)
    assert len(cut.shards) > 1
    assert documents_of(Shards.open(tmp_path / "many")) == documents_of(Shards.open(tmp_path / "one"))


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(vocab, texts_file, tmp_path):
    options = {"tokenizer": vocab, "max_tokens": 16, "shard_tokens": 3000}
    inputs = [texts_file] * 30  # several batches
    one = build_shards(inputs, out=tmp_path / "one", **options)
    two = build_shards(inputs, out=tmp_path / "two", workers=2, **options)
    assert one == two
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")


def test_batch_size_changes_nothing(vocab, texts_file, tmp_path, monkeypatch):
    build_shards([texts_file], tokenizer=vocab, out=tmp_path / "large", shard_tokens=500)
    monkeypatch.setattr(tokenizing, "BATCH_TEXTS", 7)
    build_shards([texts_file], tokenizer=vocab, out=tmp_path / "small", shard_tokens=500)
    assert file_bytes(tmp_path / "large") == file_bytes(tmp_path / "small")


def test_huge_text_goes_through_the_tokenizer_in_parts(vocab, monkeypatch):
    tokenizer = Tokenizer.load(vocab)
    text = "the cat sat\non the mat . " * 50
    whole = tokenizing.tokenize_here(tokenizer, [text], max_tokens=16)
    monkeypatch.setattr(tokenizing, "BATCH_CHARS", 37)
    assert list(tokenizing.batches(["a", text, "b", "c"])) == [["a"], [text], ["b", "c"]]
    parts = tokenizing.tokenize_here(tokenizer, [text], max_tokens=16)
    assert np.array_equal(parts.token_ids, whole.token_ids)
    assert tokenizing.tokenize_here(tokenizer, ["x" * 100], max_tokens=16).texts == 1


@pytest.mark.slow
def test_a_one_megabyte_line_and_nul_bytes_are_read(vocab, tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"." * 2**20 + b"\ncat\x00dog\n\x00\n")
    manifest = build_shards([path], tokenizer=vocab, out=tmp_path / "corpus")
    dot = Tokenizer.load(vocab).token_to_id(".")
    shards = Shards.open(tmp_path / "corpus")
    assert sum(int((shards[index] == dot).sum()) for index in range(len(shards))) == 2**20
    assert (manifest.texts, manifest.empty_texts) == (2, 1)


@pytest.mark.slow
def test_large_vocabulary_uses_four_bytes(tmp_path):
    vocab, path = tmp_path / "vocab.txt", tmp_path / "in.txt"
    words = [f"w{number}" for number in range(66_000)]
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    path.write_text("w65999 w0\n")
    assert build_shards([path], tokenizer=vocab, out=tmp_path / "corpus").dtype == "uint32"
    assert Shards.open(tmp_path / "corpus")[0].tolist() == [2, 66_004, 5, 3]


def test_progress_and_skipped_rows_are_reported(vocab, tmp_path, caplog):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "the cat"}\nbroken\n{"text": ""}\n')
    seen: list[BuildProgress] = []
    tally = Tally()
    with caplog.at_level(logging.WARNING):
        manifest = build_shards(
            [path], tokenizer=vocab, out=tmp_path / "corpus", max_bad_rows=1, tally=tally, on_progress=seen.append
        )
    size = path.stat().st_size
    assert seen == [BuildProgress(bytes_done=size, bytes_total=size, texts=1, documents=1, tokens=4)]
    assert (manifest.bad_rows, manifest.empty_texts) == (tally[BAD_ROWS].count, tally[EMPTY_TEXTS].count) == (1, 1)
    assert caplog.messages == [
        f"1 bad rows were skipped (first: {tally[BAD_ROWS].first[0]})",
        f"1 empty texts were skipped (first: {path}:3)",
    ]


def test_files_without_a_text_are_reported(vocab, texts_file, tmp_path, caplog):
    """One of many may be empty; if all are, that is the error."""
    empty = [tmp_path / "empty.txt", tmp_path / "blank.jsonl"]
    empty[0].write_text("")
    empty[1].write_text('{"text": " "}\n')
    build_shards([empty[0], texts_file, empty[1]], tokenizer=vocab, out=tmp_path / "corpus")
    assert f"2 of 3 input files have no text (first: {empty[0]})" in caplog.messages
    with pytest.raises(DataError, match=r"no text found in 2 input files \(first: [^;]*\); 1 empty texts [^;]*; check"):
        build_shards(empty, tokenizer=vocab, out=tmp_path / "none")


@pytest.mark.slow
def test_fingerprint_depends_on_what_training_reads(vocab, texts_file, tmp_path):
    def built(name, path=texts_file, **options):
        return build_shards([path], tokenizer=vocab, out=tmp_path / name, **options).fingerprint

    with_bad_row, other = tmp_path / "same.txt", tmp_path / "other.txt"
    with_bad_row.write_bytes(texts_file.read_bytes() + b"\n\xff")
    other.write_bytes(texts_file.read_bytes().replace(b"cat", b"dog", 1))
    assert built("a") == built("b") == built("c", with_bad_row, max_bad_rows=1)
    assert len({built("d"), built("e", other), built("f", max_tokens=20), built("g", shard_tokens=50)}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_more_bad_rows_than_allowed_leave_no_corpus(workers, vocab, tmp_path):
    path, other = tmp_path / "in.jsonl", tmp_path / "other.txt"
    path.write_text('{"text": "the cat"}\nbroken\n{"text": ""}\n')
    other.write_text("the cat\n")

    def build(share):
        return build_shards(
            [path, other], tokenizer=vocab, out=tmp_path / "corpus", workers=workers, max_bad_rows=share
        )

    expected = r"1 of 4 rows are bad, expected at most 0\.249 of all rows \(first: .*in\.jsonl:2: broken JSON"
    with pytest.raises(DataError, match=expected):
        build(0.249)
    assert not list(tmp_path.glob("*corpus*"))
    assert build(0.25).bad_rows == 1


def test_by_default_one_row_in_a_hundred_may_be_bad(vocab, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "the cat"}\n' * 99 + "broken\n")
    assert build_shards([path], tokenizer=vocab, out=tmp_path / "first").bad_rows == 1
    path.write_text(path.read_text() + "broken\n")
    with pytest.raises(DataError, match=r"2 of 101 rows are bad.*raise the max share \(--max-bad-rows"):
        build_shards([path], tokenizer=vocab, out=tmp_path / "second")


def test_nothing_to_read_is_an_error_that_shows_why(vocab, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"body": "the cat"}\n')
    with pytest.raises(DataError, match=r"1 of 1 rows are bad.*in\.jsonl:1: no field 'text'.*change the field name"):
        build_shards([path], tokenizer=vocab, out=tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(("name", "value"), [("max_tokens", 2), ("shard_tokens", 0), ("workers", 0)])
def test_impossible_numbers_are_rejected(name, value, vocab, texts_file, tmp_path):
    with pytest.raises(UsageError, match=rf"{name} is {value}; expected \d or more"):
        build_shards([texts_file], tokenizer=vocab, out=tmp_path / "corpus", **{name: value})


def test_no_inputs_are_rejected(vocab, tmp_path):
    with pytest.raises(UsageError, match="no input files; give at least one"):
        build_shards([], tokenizer=vocab, out=tmp_path / "corpus")


# --- damage ---------------------------------------------------------------------------------------


@pytest.fixture
def corpus(vocab, texts_file, tmp_path) -> Path:
    build_shards([texts_file], tokenizer=vocab, out=tmp_path / "corpus", shard_tokens=3000)
    return tmp_path / "corpus"


def change_manifest(corpus: Path, **changes: object) -> None:
    path = corpus / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_flipped_token_is_found_by_verify(corpus):
    path = corpus / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-00000\.safetensors: the contents do not match the checksum"):
        Shards.open(corpus, verify=True)


def test_truncated_shard_is_found_without_verify(corpus):
    path = corpus / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"shard-00001\.safetensors"):
        Shards.open(corpus)


def test_missing_shard_and_missing_manifest_are_found(corpus):
    (corpus / "shard-00001.safetensors").unlink()
    with pytest.raises(DataError, match=r"shard-00001\.safetensors: missing, but listed in manifest\.json"):
        Shards.open(corpus)
    (corpus / MANIFEST_NAME).unlink()
    with pytest.raises(DataError, match=r"no manifest\.json, so this is not a built corpus"):
        Shards.open(corpus)


def test_swapped_shards_are_found(corpus):
    first, second = corpus / "shard-00000.safetensors", corpus / "shard-00001.safetensors"
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    with pytest.raises(DataError, match="sizes or types do not match"):
        Shards.open(corpus)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": 7}, "differ from the sums over the shards"),
        ({"documents": "many"}, "documents is 'many'; expected a whole number"),
        ({"tokens": True}, "tokens is True; expected a whole number"),
        ({"tokens": -1}, "tokens is -1; expected 0 or more"),
        ({"dtype": "float64"}, "dtype is 'float64', expected uint16 or uint32"),
        ({"dtype": "uint32"}, "sizes or types do not match"),
        ({"max_tokens": 5}, "the offsets do not delimit documents of 1 to 5 tokens"),
        ({"shards": []}, "a shard has no documents"),
        ({"shards": ["x"]}, r"shards is \[\'x\'\]; expected a list, each item an object"),
        ({"surprise": 1}, "unknown key 'surprise'; expected tokenizer"),
    ],
)
def test_wrong_manifests_are_rejected(changes, message, corpus):
    change_manifest(corpus, **changes)
    with pytest.raises(DataError, match=message):
        Shards.open(corpus)


def test_manifest_cannot_name_files_elsewhere(corpus):
    shards = json.loads((corpus / MANIFEST_NAME).read_text())["shards"]
    shards[0]["file"] = "../secret.safetensors"
    change_manifest(corpus, shards=shards)
    with pytest.raises(DataError, match=r"shard files are not named shard-00000\.safetensors"):
        Shards.open(corpus)
