"""Sentences of column files and tables: read in IOB2, and one line for every mistake."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm.errors import DataError, MinilmError, SettingsError, UsageError
from minilm.tasks.tokens.rows import Sentence, labels_of, read_tagged, require_known
from minilm.tasks.tokens.settings import TokensSettings

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP I-ORG
rejects VBZ B-VP O

German JJ B-NP I-MISC
Peter NNP B-NP I-PER
"""


def read(path: Path, content: object, **settings: object) -> list[Sentence]:
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(content, encoding="utf-8")
    return read_tagged(path, TokensSettings(name="ner", **settings))


def pairs(sentences: list[Sentence]) -> list[list[tuple[str, str]]]:
    return [list(zip(one.words, one.tags, strict=True)) for one in sentences]


EXPECTED = [[("EU", "B-ORG"), ("rejects", "O")], [("German", "B-MISC"), ("Peter", "B-PER")]]


@pytest.mark.parametrize("name", ["eng.conll", "eng.txt", "eng.bio", "eng.conll.gz"])
def test_a_column_file_is_read_and_converted(tmp_path, name, caplog):
    path = tmp_path / name
    path.write_bytes(gzip.compress(CONLL.encode()) if name.endswith(".gz") else CONLL.encode())
    with caplog.at_level(logging.INFO):
        found = read_tagged(path, TokensSettings(name="ner"))
    assert pairs(found) == EXPECTED
    assert [(one.id, one.location) for one in found] == [("0", f"{path}:3"), ("1", f"{path}:6")]
    assert found[1].word_location(1) == f"{path}:7"
    assert caplog.messages == [f"{path}: 2 sentences, 4 words, tags in IOB1, converted to IOB2"]


def test_tabs_let_a_word_hold_spaces_and_line_ends_do_not_matter(tmp_path):
    text = "1 000\tX\tO\r\nNew York\tX\tB-LOC\t\r\n \t\r\n\r\nx\tX\tO"
    assert pairs(read(tmp_path / "a.conll", text)) == [[("1 000", "O"), ("New York", "B-LOC")], [("x", "O")]]


@pytest.mark.parametrize("names", [("tokens", "ner_tags"), ("words", "labels"), ("words", "tags")])
def test_lists_of_words_and_tags_are_read(tmp_path, names, caplog):
    rows = [{names[0]: ["EU", "rejects"], names[1]: ["B-ORG", "O"], "id": "a"}]
    rows.append({names[0]: ["German", "Peter"], names[1]: ["B-MISC", "B-PER"], "id": "b"})
    path = tmp_path / "a.jsonl"
    with caplog.at_level(logging.INFO):
        found = read(path, rows)
    assert pairs(found) == EXPECTED
    assert [one.id for one in found] == ["a", "b"]
    assert found[1].word_location(1) == f"{path}:2, word 2"
    assert caplog.messages == [f"{path}: 2 sentences, 4 words, tags in IOB2"]


def test_numbers_of_tags_need_their_names(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"tokens": [["EU", "rejects"]], "ner_tags": [[3, 0]]}), path)
    found = read_tagged(path, TokensSettings(name="ner", labels=["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]))
    assert pairs(found) == EXPECTED[:1]
    with pytest.raises(
        UsageError, match=r"a\.parquet:1, word 1: found tag 3, a number without a name; set task\.labels to"
    ):
        read_tagged(path, TokensSettings(name="ner"))
    with pytest.raises(DataError, match=r"found tag 3, expected a number from 0 to 1, for O, B-PER; correct the tag"):
        read_tagged(path, TokensSettings(name="ner", labels=["O", "B-PER"]))


def test_labels_are_those_of_the_training_sentences_with_both_prefixes(tmp_path):
    found = read(tmp_path / "a.conll", CONLL)
    labels = ("O", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert set(labels_of(found, TokensSettings(name="ner"))) == set(labels)
    assert labels_of(found, TokensSettings(name="ner"))[0] == "O"
    assert labels_of(found, TokensSettings(name="ner", labels=labels[::-1])) == labels[::-1]
    require_known(found, labels)
    with pytest.raises(
        DataError, match=r"a\.conll:7: found tag 'B-PER', expected one of O, B-MISC.*list all tags in task"
    ):
        require_known(found, labels[:-2])


def test_sentences_without_words_are_skipped_and_counted(tmp_path, caplog):
    rows = [{"tokens": [], "tags": [], "id": "x"}, {"tokens": ["a"], "tags": ["O"], "id": "y"}]
    path = tmp_path / "a.jsonl"
    assert [one.id for one in read(path, rows)] == ["y"]
    assert f"1 of 2 sentences have no words and were skipped (first: {path}:1)" in caplog.messages
    for name, content in (("b.jsonl", rows[:1]), ("b.conll", "\n\n-DOCSTART- O\n"), ("c.conll", "")):
        with pytest.raises(DataError, match=rf"{name}: found no sentence with a word, expected at least one"):
            read(tmp_path / name, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"tokens": ["a", "b"], "tags": ["O"]}],
            ":1: found 2 words in 'tokens' and 1 tags in 'tags', expected one tag",
        ),
        (
            [{"tokens": ["a"], "tags": ["PER"]}],
            ":1, word 1: found tag 'PER', expected O, B-TYPE or I-TYPE (IOB1, IOB2), or",
        ),
        ([{"tokens": ["a"], "tags": ["B-"]}], ":1, word 1: found tag 'B-', expected O"),
        ([{"tokens": ["a"], "tags": [None]}], ":1, word 1: a tag is null, expected its name or number"),
        ([{"tokens": ["a"], "tags": [True]}], ":1, word 1: a tag is true or false, expected its name or number"),
        ([{"tokens": ["a"], "tags": "O"}], ":1: column 'tags' is a string, expected a list of tags"),
        ([{"tokens": "a", "tags": ["O"]}], ":1: column 'tokens' is a string, expected a list of words"),
        ([{"tokens": [1], "tags": ["O"]}], ":1: a word in 'tokens' is a whole number, expected a string"),
        (
            [{"text": "a", "tags": ["O"]}],
            ":1: no field 'tokens' or 'words', found 'text', 'tags'; correct the row, or set task.words",
        ),
        (
            [{"tokens": ["a"]}],
            "no field 'ner_tags' or 'tags' or 'labels', found 'tokens'; correct the row, or set task.tags",
        ),
        (
            [{"tokens": ["a", "b"], "tags": ["B-X", "I-Y"]}],
            ":1, word 1: found tag 'B-X', which begins an entity as in IOB2",
        ),
    ],
)
def test_a_mistake_in_a_row_is_named(tmp_path, content, message):
    with pytest.raises(MinilmError) as caught:
        read(tmp_path / "a.jsonl", content)
    assert message in str(caught.value)
    assert "a.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "EU X B-ORG\nrejects O\n",
            ":2: found 2 columns, expected 3 as in the lines before; in a column file a line is a",
        ),
        ("EU\nrejects\n", ":1: found 1 column, expected a word and its tag"),
        ("The river is wide .\n", ":1: found tag '.', expected O, B-TYPE or I-TYPE"),
        ("EU B-ORG\n\nx E-ORG\n", ":1: found the end of the sentence after 'B-ORG'"),
    ],
)
def test_a_mistake_in_a_column_file_is_named(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.txt", content)
    assert message in str(caught.value)


def test_a_scheme_that_is_set_is_not_guessed(tmp_path):
    assert pairs(read(tmp_path / "a.conll", "a B-X\nb I-Y\n", scheme="IOB1")) == [[("a", "B-X"), ("b", "B-Y")]]
    with pytest.raises(DataError, match=r"a\.conll:2: found tag 'I-Y' where no entity of its type precedes; in IOB2"):
        read(tmp_path / "a.conll", "a B-X\nb I-Y\n", scheme="IOB2")


def test_columns_of_ones_own_are_named(tmp_path):
    rows = [{"w": ["EU"], "t": ["B-ORG"], "nr": 7}]
    [found] = read(tmp_path / "a.jsonl", rows, words="w", tags="t", id="nr")
    assert (found.words, found.tags, found.id) == (("EU",), ("B-ORG",), "7")
    with pytest.raises(
        DataError, match=r"no field 'v', found 'w', 't', 'nr'; correct the row, or set task\.words to the column"
    ):
        read(tmp_path / "a.jsonl", rows, words="v", tags="t")


def test_files_of_another_kind_are_rejected(tmp_path):
    for name in ("a.tsv", "a.csv"):
        with pytest.raises(
            UsageError, match=r"cannot hold a list of words; write \.jsonl, or a column file with one word per"
        ):
            read(tmp_path / name, "EU\tO\n")
    with pytest.raises(UsageError, match=r"unknown kind of file; expected \.conll, \.bio, \.txt, \.jsonl, "):
        read(tmp_path / "a.iob", CONLL)
    with pytest.raises(UsageError, match="no such file"):
        read_tagged(tmp_path / "none.conll", TokensSettings(name="ner"))


def test_labels_that_are_no_tags_are_rejected():
    with pytest.raises(SettingsError, match="labels: found tag 'PER', expected O, B-TYPE or I-TYPE"):
        TokensSettings(name="ner", labels=["O", "PER"])
