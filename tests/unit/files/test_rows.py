"""Rows of several columns: every format gives the same rows; in .tsv nothing is quoted; a bad row is an error."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm.errors import DataError, UsageError
from minilm.files.rows import read_rows

BOM = b"\xef\xbb\xbf"
ROWS = [
    {"id": 1, "text": "the cat sat", "score": 0.5, "note": None},
    {"id": 2, "text": 'naïve "café", 猫', "score": 4.0, "note": "n"},
]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def values(path: Path, **options) -> list[dict[str, object]]:
    return [dict(row.values) for row in read_rows(path, **options)]


def cells(rows: list[dict[str, object]]) -> list[dict[str, str]]:
    """Rows as strings, as in a format without types."""
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_json_lines_keep_their_types(kind, packed, bom, tmp_path):
    data = bom + "".join(json.dumps(row) + "\r\n" for row in ROWS).encode()
    assert values(write(tmp_path / f"in.{kind}{packed}", data)) == ROWS


@pytest.mark.parametrize("bom", [b"", BOM])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(("kind", "between"), [("tsv", "\t"), ("csv", ",")])
def test_tsv_and_csv_give_text(kind, between, packed, bom, tmp_path):
    quote = (lambda text: f'"{text.replace(chr(34), chr(34) * 2)}"') if kind == "csv" else (lambda text: text)
    lines = [ROWS[0].keys(), *(map(quote, row.values()) for row in cells(ROWS))]
    data = bom + "\n".join(map(between.join, lines)).encode()
    path = write(tmp_path / f"in.{kind}{packed}", data)
    assert values(path) == cells(ROWS)
    assert [row.line for row in read_rows(path)] == [2, 3]


def test_parquet_keeps_its_types(tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 100), path)
    assert values(path) == ROWS * 100
    assert [row.line for row in read_rows(path)] == list(range(1, 201))


def test_a_quotation_mark_in_tsv_is_a_character(tmp_path):
    path = write(tmp_path / "in.tsv", b'text\tlabel\n"open\t1\nshut" and "\\t"\t0\n')
    assert values(path) == [{"text": '"open', "label": "1"}, {"text": 'shut" and "\\t"', "label": "0"}]


def test_short_and_long_tsv_rows_are_marked_and_keep_their_cells(tmp_path):
    path = write(tmp_path / "in.tsv", b"a\tb\n1\n\n1\t2\t3\n\t\n1\t2\n")
    rows = list(read_rows(path))
    assert [(row.line, dict(row.values), row.misfit) for row in rows] == [
        (2, {"a": "1"}, "1 columns, expected 2"),
        (4, {"a": "1", "b": "2"}, "3 columns, expected 2"),
        (6, {"a": "1", "b": "2"}, ""),
    ]


def test_tsv_without_a_header_gets_names(tmp_path):
    path = write(tmp_path / "in.tsv", b"x\t0\ny\t1\n")
    assert values(path, unnamed=("text", "label")) == [{"text": "x", "label": "0"}, {"text": "y", "label": "1"}]
    assert [row.line for row in read_rows(path, unnamed=("text", "label"))] == [1, 2]


def test_a_first_line_with_one_of_the_names_is_a_header(tmp_path):
    path = write(tmp_path / "in.tsv", BOM + b"index\ttext\n0\tx\n")
    assert values(path, unnamed=("text", "label")) == [{"index": "0", "text": "x"}]


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_an_empty_file_has_no_rows(kind, tmp_path):
    assert values(write(tmp_path / f"in.{kind}", b"")) == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("in.jsonl", b'{"a": 1}\n{"a": \n', "2: broken JSON (Expecting value at column 7)"),
        (
            "in.jsonl",
            b'{"a": 1}\n{"a": 1, "b": {"c": 0, "c": 1}}\n',
            "2: key 'c' appears twice in one object: keep one of them",
        ),
        ("in.jsonl", b'{"a": 1}\n\n[1]\n', "3: found a list, expected one object per line"),
        ("in.jsonl", b'{"a": "\xff"}\n', "1: invalid UTF-8 at byte 8 of the line"),
        ("in.tsv", b"a\tb\nx\t\xff\n", "2: invalid UTF-8 at byte 3 of the line"),
        ("in.csv", b"a,b\n1,2\n3\n", "3: 1 columns, expected 2"),
        ("in.csv", b"a,b\n1,\xff\n", "2: invalid UTF-8 in column 'b'"),
        ("in.csv", b'a,b\n1,"2\n', "2: broken CSV (unexpected end of data)"),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error_with_its_line(name, data, message, tmp_path):
    path = write(tmp_path / name, data)
    with pytest.raises(DataError) as caught:
        values(path)
    assert str(caught.value) == f"{path}:{message}; correct the row or remove it"


@pytest.mark.parametrize(("name", "data"), [("in.tsv", b"a\ta\n1\t2\n"), ("in.csv", b"a,a\n1,2\n")])
def test_a_duplicate_column_name_is_an_error(name, data, tmp_path):
    with pytest.raises(DataError, match=r":1: expected one column named 'a' in the .*header, found 'a', 'a'; rename"):
        values(write(tmp_path / name, data))


def test_a_key_that_appears_twice_in_an_object_of_an_array_is_an_error(tmp_path):
    path = write(tmp_path / "in.json", b'[{"a": 1},\n {"a": 1, "a": 2}]')
    with pytest.raises(DataError, match=r"in\.json: key 'a' appears twice in one object: keep one of them"):
        values(path)


def test_a_wrong_path_is_rejected_before_the_first_row(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.tsv: no such file; check the input path"):
        read_rows(tmp_path / "gone.tsv")
    with pytest.raises(
        UsageError, match=r"in\.txt: unknown kind of file; expected \.tsv, \.jsonl, \.json, \.csv, \.pa"
    ):
        read_rows(write(tmp_path / "in.txt", b""))
