"""Line i of a vocabulary file is id i; files that would shift ids are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from minilm.errors import DataError
from minilm.text.vocabulary import NLG_RENAMES, read_vocab, rename_tokens


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        ("a\u2028b\nc\x85d\n\x0b\n \ne\xa0\n".encode(), ["a\u2028b", "c\x85d", "\x0b", " ", "e\xa0"]),
        (b"a\rb\nc\r\r\n", ["a\rb", "c\r"]),
    ],
)
def test_only_a_line_feed_ends_a_token(tmp_path: Path, content: bytes, tokens: list[str]) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    assert read_vocab(tmp_path / "vocab.txt") == tokens


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"a\n[unused99]\nb\n[unused99]\n",
            r"vocab\.txt:4: token '\[unused99\]' is also on line 2: each line is one",
        ),
        (b"a\n\nb\n", r"vocab\.txt:2: empty line, expected a token: remove the line$"),
        (b"a\nb\n\n", r"vocab\.txt:3: empty line"),
        (b"", r"vocab\.txt is empty: expected one token per line$"),
        (b"a\nb\0c\n", r"vocab\.txt:2: NUL character: this is not a vocabulary file$"),
        (b"a\nb\n\xed\xa0\x80\n", r"vocab\.txt:3: byte 0xed is not UTF-8"),
        ("a\nb\n".encode("utf-16"), r"vocab\.txt: the file is UTF-16, expected UTF-8"),
    ],
)
def test_files_that_would_shift_ids_are_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_vocab(tmp_path / "vocab.txt")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*vocab\.txt: No such file or directory$"):
        read_vocab(tmp_path / "vocab.txt")


def test_generation_names_take_the_published_slots(bert_vocab: Path) -> None:
    vocab = read_vocab(bert_vocab)
    renamed = rename_tokens(vocab, NLG_RENAMES)
    assert (len(vocab), vocab[0], vocab[102], vocab[104]) == (30522, "[PAD]", "[SEP]", "[unused99]")
    assert (renamed.index("[X_SEP]"), renamed.index("[SEP_0]"), renamed.index("[S2S_SOS]")) == (2, 3, 19)
    assert sum(old != new for old, new in zip(vocab, renamed, strict=True)) == len(NLG_RENAMES) == 18


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"x": "y"}, "no token 'x' to rename to 'y'$"),
        ({"x": "a"}, "no token 'x' to rename to 'a'; 'a' already exists, so no rename is needed$"),
        ({"a": "b"}, "cannot rename 'a': the vocabulary already has a token 'b'$"),
        ({"a": "z", "b": "z"}, "two tokens would be renamed to the same name"),
    ],
)
def test_impossible_renames_are_rejected(renames: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        rename_tokens(["a", "b"], renames)
