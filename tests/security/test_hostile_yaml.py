# ruff: noqa: E501 - one message per line
"""Hostile recipes end quickly and in one line; nothing in them runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from minilm.errors import UsageError
from minilm.recipe import load_recipe

VALID = b"""\
kind: distill
name: small
out: runs/small
data: {inputs: [a.txt]}
teacher: {model: embedded}
students: [{preset: L6-H384}]
train: {steps: 10, batch_size: 4, learning_rate: 1e-4}
"""


def rejection(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"name: caf\xe9\n", "r.yaml:1: byte 0xe9 is not UTF-8: save the file as UTF-8"),
        (b"kind: distill\nname: a\0b\n", "r.yaml:2: character U+0000 is not allowed in YAML"),
        (b"kind: distill\n\tname: a\n", "r.yaml:2: found character '\\t' that cannot start any token (indent with spaces, not tabs)"),
        (b"name: [a\nout: b\n", "r.yaml:2: expected ',' or ']', but got ':'"),
        (b"name: 'a\n", "r.yaml:2: found unexpected end of stream"),
        (b"a: b: c\n", "r.yaml:1: mapping values are not allowed here"),
        (b"- a\n- b\n", "r.yaml:1: found a list of 2 at the top level, expected keys such as 'name: ...'"),
        (b"", "r.yaml:1: found nothing (null) at the top level, expected keys such as 'name: ...'"),
        (b"just text", "r.yaml:1: found the text 'just text' at the top level, expected keys such as 'name: ...'"),
        (b"a: 1\n---\nb: 2\n", "r.yaml:2: but found another document"),
        (b"1: a\n", "r.yaml:1: a key must be text, found 1: put it in quotes"),
        (b"? [a]\n: b\n", "r.yaml:1: a key must be text, found a list of 1: put it in quotes"),
        (b"null: b\n", "r.yaml:1: a key must be text, found nothing (null): put it in quotes"),
    ],
)  # fmt: skip
def test_broken_files_end_in_one_line(tmp_path, data, message):
    assert rejection(tmp_path, data) == message


@pytest.mark.parametrize(
    "data",
    [
        b"a: &x [1]\nb: *x\n",
        b"a: &x 1\n",
        b"a: *x\n",
        b"a: &a [" + b"l," * 9 + b"]\n" + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 9)) for c in range(97, 106)),
    ],
)  # fmt: skip
def test_anchors_and_aliases_are_rejected(tmp_path, data):
    assert "anchors and aliases (& and *) are not allowed" in rejection(tmp_path, data)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!binary", "!x", "!!str"]
)
def test_tags_are_rejected_and_run_nothing(tmp_path, tag):
    canary = tmp_path / "canary"
    message = rejection(tmp_path, f"kind: {tag} ['touch {canary}']\n".encode())
    assert "tags are not allowed" in message
    assert not canary.exists()


@pytest.mark.parametrize("data", [b"[" * 100_000, b"a: " + b"{b: " * 5_000, b"- " * 5_000 + b"x"])
def test_deep_nesting_is_rejected(tmp_path, data):
    assert "nested deeper than 32 levels" in rejection(tmp_path, data)


def test_a_huge_file_is_rejected_unread(tmp_path):
    assert "larger than 262144 bytes" in rejection(tmp_path, b"#" * 2**20)


def test_a_long_value_is_truncated_in_the_message(tmp_path):
    assert "aaa..." in rejection(tmp_path, b"kind: " + b"a" * 10_000)


def test_a_huge_number_ends_in_one_line(tmp_path):
    """Thousands of digits neither raise Python's integer limit nor fill the message."""
    assert "seed: found inf, expected" in rejection(tmp_path, VALID + b"seed: " + b"9" * 10_000)


def test_a_folder_is_not_a_recipe(tmp_path):
    with pytest.raises(UsageError, match="is not a regular file: give the path of a file"):
        load_recipe(tmp_path)
