"""Tokens are converted back to text as UniLM does it."""

from __future__ import annotations

import pytest

from minilm.text.detokenize import one_line, text_of, without_run_of_marks, words_of
from minilm.text.tokenizer import Tokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "##s", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in VOCAB))
    return Tokenizer.load(path)


def ids(tokenizer, text):
    return [tokenizer.token_to_id(token) for token in text.split()]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("a b ##s .", "a bs ."),
        ("##s a", "##s a"),
        ("a [SEP] b", "a"),
        ("a [PAD] b [SEP]", "a"),
        ("[UNK] [CLS] a", "[UNK] [CLS] a"),
        ("[SEP]", ""),
    ],
)
def test_pieces_are_glued_and_the_end_is_dropped(tokenizer, tokens, text):
    assert text_of(ids(tokenizer, tokens), tokenizer) == text


def test_a_line_break_becomes_a_sentence_mark():
    assert one_line(["a", "b\nc"]) == "a b [X_SEP] c"


def test_runs_of_marks_at_the_end_are_shortened():
    """Three marks at a time, as long as more than four words end in four equal marks."""
    assert without_run_of_marks(list("ab......")) == list("ab...")
    assert without_run_of_marks(list("a....")) == list("a.")
    assert without_run_of_marks(list("....")) == list("....")
    assert without_run_of_marks(list("ab...")) == list("ab...")
    assert without_run_of_marks(list("abcccc")) == list("abcccc")
    assert without_run_of_marks(["a", "b", "--", "--", "--", "--"]) == ["a", "b", "--", "--", "--", "--"]
    assert without_run_of_marks([]) == []


def test_words_of_an_ended_target(tokenizer):
    assert words_of(ids(tokenizer, "c ##s ##s [SEP] a"), tokenizer) == ["css"]
