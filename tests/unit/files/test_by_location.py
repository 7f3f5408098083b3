"""Texts by position: every format gives the same items, no line is lost, a broken file is one clear error."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm.errors import DataError, UsageError
from minilm.files.by_location import read_aligned

TEXTS = ["the cat", "", "naïve — 猫 \u2028 it"]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def encoded(kind: str, folder: Path) -> bytes:
    if kind in ("jsonl", "json"):
        return "".join(json.dumps({"prediction": text}) + "\n\n" for text in TEXTS).encode()
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        return "".join(
            f"{key}{mark}{text}\n" for key, text in zip("i012", ["prediction", *TEXTS], strict=True)
        ).encode()
    if kind == "parquet":
        pq.write_table(pa.table({"prediction": TEXTS}), folder / "plain.parquet")
        return (folder / "plain.parquet").read_bytes()
    return "\r\n".join(TEXTS).encode("utf-8-sig")


_KINDS = ("txt", "test", "post", "jsonl", "json", "csv", "tsv")


@pytest.mark.parametrize("name", ["parquet", *_KINDS, *(f"{kind}.gz" for kind in _KINDS)])
def test_every_format_gives_the_same_items(name, tmp_path):
    path = write(tmp_path / f"in.{name}", encoded(name.removesuffix(".gz"), tmp_path))
    assert read_aligned(path, fields=("other", "prediction")).texts == [(text,) for text in TEXTS]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_last_line_counts_with_and_without_a_line_feed(end, tmp_path):
    path = write(tmp_path / "in.txt", f"a\n\nb{end}".encode())
    found = read_aligned(path, fields=())
    assert (found.texts, found.lines) == ([("a",), ("",), ("b",)], [1, 2, 3])


def test_empty_items_are_counted_with_the_first_location(tmp_path):
    path = write(tmp_path / "in.txt", b"a\n\n \nb\n")
    found = read_aligned(path, fields=())
    assert found.empty_finding("texts") == f"2 of 4 texts are empty and match nothing (first: {path}:2)"
    path = write(tmp_path / "full.txt", b"a\n")
    assert read_aligned(path, fields=()).empty_finding("texts") == ""


def test_a_list_is_several_texts_if_requested(tmp_path):
    path = write(tmp_path / "in.jsonl", b'{"reference": ["a", "b"]}\n{"reference": "c"}\n')
    assert read_aligned(path, fields=("reference",), several=True).texts == [("a", "b"), ("c",)]
    with pytest.raises(DataError) as caught:
        read_aligned(path, fields=("reference",))
    assert str(caught.value) == f"{path}:1: field 'reference': found a list, expected a string"


WANTED = "expected a string or a list of them"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("in.txt", b"", ": the file is empty; expected at least one text"),
        ("in.jsonl", b"\n", ": the file is empty; expected at least one text"),
        ("in.txt", b"a\n\xff\n", ":2: invalid UTF-8; write the file again as UTF-8"),
        (
            "in.jsonl",
            b'{"output": "a"}\n{"text": "b"}',
            ":2: no field 'prediction' or 'output', found 'text'; add the field or correct its name",
        ),
        ("in.jsonl", b'{"output": null}', f":1: field 'output': found null, {WANTED}"),
        ("in.jsonl", b'{"output": []}', f":1: field 'output': found an empty list, {WANTED}"),
        ("in.jsonl", b'{"output": ["a", 1]}', f":1: field 'output': found a whole number, {WANTED}"),
        ("in.jsonl", b"[1]", ":1: found a list, expected one object per line; correct the row or remove it"),
    ],
)
def test_bad_files_are_one_clear_error(name, data, message, tmp_path):
    path = write(tmp_path / name, data)
    with pytest.raises(DataError) as caught:
        read_aligned(path, fields=("prediction", "output"), several=True)
    assert str(caught.value) == f"{path}{message}"


def test_a_damaged_gz_and_a_missing_file_are_errors(tmp_path):
    path = tmp_path / "in.txt.gz"
    path.write_bytes(gzip.compress(b"a" * 999)[:-6])
    with pytest.raises(DataError, match=r"in\.txt\.gz: the \.gz file is damaged or truncated"):
        read_aligned(path, fields=())
    with pytest.raises(UsageError, match=r"gone\.txt: no such file"):
        read_aligned(tmp_path / "gone.txt", fields=())
