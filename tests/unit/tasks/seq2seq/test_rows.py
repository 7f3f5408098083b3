"""Proves how pairs are read: formats, tokens, joined fields, truncation, and what is rejected or counted, and where."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from minilm.errors import DataError, UsageError
from minilm.tasks.seq2seq.rows import load_nlg_tokenizer, read_pairs
from minilm.tasks.seq2seq.settings import Seq2SeqSettings
from minilm.text.tokenizer import Tokenizer

WORDS = ["[PAD]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##x", "q"]
IDS = {token: number for number, token in enumerate(WORDS)}
WIDE = {"max_source_tokens": 22, "max_target_tokens": 11}
PASSAGES = {"source": ("passage", "answer"), "target": "question"}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return load_nlg_tokenizer(tmp_path / "vocab.txt")


@pytest.fixture
def written(tmp_path: Path):
    def write(*rows: object, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def read(path: Path, tokenizer: Tokenizer, columns=None, limits=WIDE):
    return read_pairs([path], tokenizer, Seq2SeqSettings(name="x", **(columns or {}), **limits))


def tokens(tokenizer, ids) -> str:
    return " ".join(tokenizer.id_to_token(int(number)) for number in ids)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json.gz"])
def test_texts_are_tokenized_and_lists_looked_up_row_by_row(written, tokenizer, name):
    path = written({"src": "A bx", "tgt": "c"}, {"src": ["b", "##x", "[SEP]", "a"], "tgt": ["c", "##x"]}, name=name)
    pairs = read(path, tokenizer)
    assert [tokens(tokenizer, ids) for ids in pairs.sources] == ["a b ##x", "b ##x [SEP] a"]
    assert [tokens(tokenizer, ids) for ids in pairs.targets] == ["c", "c ##x"]
    assert list(pairs.references) == ["c", "cx"]
    assert list(pairs.locations) == [f"{path}:1", f"{path}:2"]


def test_unused_slots_get_their_nlg_names_and_are_one_token(written, tokenizer):
    """Ids stay; a vocabulary that already has the names is left as it is."""
    assert tokenizer.token_to_id("[X_SEP]") == IDS["[unused1]"]
    assert tokenizer.token_to_id("[SEP_0]") == IDS["[unused2]"]
    path = written({"src": "a[SEP_0]b [SEP] c", "tgt": "a [X_SEP] b"})
    pairs = read(path, tokenizer)
    assert tokens(tokenizer, pairs.sources[0]) == "a [SEP_0] b [SEP] c"
    assert tokens(tokenizer, pairs.targets[0]) == "a [X_SEP] b"


def test_a_vocabulary_that_has_the_names_is_left_alone(tmp_path):
    (tmp_path / "nlg.txt").write_text("\n".join(WORDS).replace("[unused1]", "[X_SEP]").replace("[unused2]", "[SEP_0]"))
    assert load_nlg_tokenizer(tmp_path / "nlg.txt").token_to_id("[X_SEP]") == 1


def test_a_line_break_in_a_target_ends_a_sentence(written, tokenizer):
    pairs = read(written({"src": "a\nb", "tgt": "a b\n\nc\n"}), tokenizer)
    assert tokens(tokenizer, pairs.targets[0]) == "a b [X_SEP] c"
    assert tokens(tokenizer, pairs.sources[0]) == "a b"
    assert pairs.references[0] == "a b\n\nc\n"


def test_source_fields_are_joined_and_the_first_one_is_truncated(written, tokenizer, caplog):
    """In question generation, the answer is never lost to a long passage."""
    columns = PASSAGES
    path = written({"passage": "a b c d a b", "answer": "d", "question": "q a"})
    whole = read(path, tokenizer, columns)
    assert tokens(tokenizer, whole.sources[0]) == "a b c d a b [SEP] d"
    assert not caplog.text
    cut = read(path, tokenizer, columns, {"max_source_tokens": 7, "max_target_tokens": 2})
    assert tokens(tokenizer, cut.sources[0]) == "a b c [SEP] d"
    assert tokens(tokenizer, cut.targets[0]) == "q"
    assert f"1 of 1 sources had more than 5 tokens and were truncated (first: {path}:1: 8 tokens)" in caplog.text
    assert f"1 of 1 targets had more than 1 tokens and were truncated (first: {path}:1: 2 tokens)" in caplog.text


def test_empty_rows_are_skipped_counted_and_named(written, tokenizer, caplog):
    path = written(
        {"src": "a", "tgt": "b"}, {"src": " ", "tgt": "b"}, {"src": ["a"], "tgt": []}, {"src": "a", "tgt": "c"}
    )
    pairs = read(path, tokenizer)
    assert len(pairs) == 2
    assert f"2 of 4 rows without source or target were skipped (first: {path}:2: empty source)" in caplog.text


def test_a_joined_source_needs_all_its_fields(written, tokenizer, caplog):
    """A passage without an answer would teach the model to ask about nothing."""
    columns = PASSAGES
    rows = [{"passage": "a", "answer": answer, "question": "q"} for answer in ("b", "")]
    assert len(read(written(*rows), tokenizer, columns)) == 1
    assert "1 of 2 rows without source or target were skipped" in caplog.text


def test_unknown_listed_tokens_are_counted(written, tokenizer, caplog):
    path = written({"src": ["a", "b", "c"], "tgt": ["a", "zebra"]}, {"src": ["a"], "tgt": ["b"]})
    pairs = read(path, tokenizer)
    assert tokens(tokenizer, pairs.targets[0]) == "a [UNK]"
    assert "1 of 7 listed tokens are not in the vocabulary and were read as [UNK]" in caplog.text
    assert f"(first: {path}:1: token 'zebra')" in caplog.text


def test_unknown_characters_of_texts_are_counted(written, tokenizer, caplog):
    path = written({"src": "a \u2603", "tgt": "\u2603 \u2603 b"})
    read(path, tokenizer)
    assert f"3 of 5 tokens of texts are not in the vocabulary and were read as [UNK] (first: {path}:1:" in caplog.text


def test_lists_of_another_vocabulary_are_rejected(written, tokenizer):
    path = written({"src": ["Ġzebra", "Ġlion", "a"], "tgt": ["b", "Ġox"]})
    with pytest.raises(DataError) as caught:
        read(path, tokenizer)
    assert str(caught.value) == (
        f"{path}:1: token 'Ġzebra': 3 of 5 listed tokens are not in the vocabulary: the lists were "
        f"made with another one; use that one as the tokenizer"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"tgt": "b"},
            "no field 'src', found 'tgt'; correct the row, or name its fields with task.source and task.target",
        ),
        ({"src": "a"}, "no field 'tgt', found 'src'"),
        ({"src": None, "tgt": "b"}, "field 'src' is null, expected a text or a list of tokens; correct the row"),
        ({"src": 7, "tgt": "b"}, "field 'src' is a whole number, expected a text or a list of tokens"),
        ({"src": ["a", 3], "tgt": "b"}, "field 'src' is a list that contains something other than texts"),
        ("{broken", "broken JSON"),
        ("[]", "found a list, expected one object per line"),
    ],
)
def test_rows_that_are_not_pairs_are_rejected_by_line(written, tokenizer, row, message):
    path = written({"src": "a", "tgt": "b"}, row)
    with pytest.raises(DataError) as caught:
        read(path, tokenizer)
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_nothing_left_is_an_error(written, tokenizer):
    path = written({"src": "", "tgt": "b"})
    with pytest.raises(DataError) as caught:
        read(path, tokenizer)
    assert str(caught.value) == (
        f"{path}: found no pair of source and target (1 rows lack one of the two), expected at least one"
    )


def test_one_of_several_files_without_a_pair_is_named(written, tmp_path, tokenizer):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl: found no pair of source and target, expected at least one"):
        read_pairs([written({"src": "a", "tgt": "b"}), tmp_path / "empty.jsonl"], tokenizer, Seq2SeqSettings(name="x"))


def test_a_missing_file_is_named(tmp_path, tokenizer):
    with pytest.raises(UsageError, match=r"no\.jsonl: no such file"):
        read(tmp_path / "no.jsonl", tokenizer)


def test_many_rows_keep_their_order(written, tokenizer):
    """More than one window of rows."""
    rows = [{"src": "abcd"[number % 4], "tgt": "q"} for number in range(2500)]
    pairs = read(written(*rows), tokenizer)
    assert "".join(tokens(tokenizer, ids) for ids in pairs.sources) == "abcd" * 625
    assert pairs.locations[2499].endswith(":2500")


@pytest.mark.slow
def test_real_files_read_whole(data_dir, tmp_path):
    """Question generation, XSum and CNN/DailyMail with their own fields and the real vocabulary."""
    tokenizer = load_nlg_tokenizer(data_dir / "vocab" / "bert-base-uncased-vocab.txt", lowercase=True)
    files = {
        "qg/du_train_subset.jsonl.gz": ({"source": ("context", "answer"), "target": "question"}, 3745),
        "xsum/train_subset.jsonl.gz": ({"source": ("document",), "target": "summary"}, 1097),
        "cnndm/train_subset.jsonl.gz": ({"source": ("article",), "target": "highlights"}, 200),
    }
    for name, (columns, count) in files.items():
        pairs = read_pairs(
            [data_dir / name],
            tokenizer,
            Seq2SeqSettings(name="x", **columns, max_source_tokens=464, max_target_tokens=160),
        )
        assert len(pairs) == count
        assert max(map(len, pairs.sources)) <= 462
    sentence_end = tokenizer.token_to_id("[X_SEP]")
    assert sentence_end == 2
    assert sum(sentence_end in ids for ids in pairs.targets) > 190
