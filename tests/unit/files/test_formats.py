"""Every format yields the same texts; bad rows are counted with their location; damaged files are errors."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm.errors import DataError, SystemProblem, UsageError
from minilm.files import formats as readers
from minilm.files.formats import ByteMeter
from minilm.files.rows import read_rows
from minilm.files.texts import BAD_ROWS, EMPTY_TEXTS, read_texts
from minilm.tally import Found, Tally

TEXTS = ["the cat sat", "naïve café — 猫", 'she said "hi", twice', "  kept  as is  "]


def read(*paths, field="text"):
    tally = Tally()
    return list(read_texts(paths, field=field, max_bad_rows=1, tally=tally)), tally[BAD_ROWS], tally[EMPTY_TEXTS].count


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def encoded(kind: str, texts: list[str], tmp_path: Path) -> bytes:
    if kind == "txt":
        return "\n".join(texts).encode()
    if kind in ("jsonl", "json"):
        return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()
    if kind == "csv":
        rows = [f'{i},"{text.replace(chr(34), chr(34) * 2)}"' for i, text in enumerate(texts)]
        return "\r\n".join(["id,text", *rows]).encode()
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), tmp_path / "plain.parquet")
    return (tmp_path / "plain.parquet").read_bytes()


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv"])
def test_every_format_gives_the_same_texts(kind, packed, tmp_path):
    path = write(tmp_path / f"in.{kind}{packed}", encoded(kind, TEXTS, tmp_path))
    assert read(path) == (TEXTS, Found(), 0)


def test_parquet_gives_the_same_texts_and_is_not_packed_again(tmp_path):
    path = write(tmp_path / "in.parquet", encoded("parquet", TEXTS, tmp_path))
    assert read(path) == (TEXTS, Found(), 0)
    packed = write(tmp_path / "in.PARQUET.gz", path.read_bytes())
    with pytest.raises(UsageError) as caught:
        read(packed)
    assert str(caught.value) == (
        f"{packed}: a parquet file is already compressed and is not read as .gz; unpack it with gunzip"
    )


@pytest.mark.parametrize("name", ["in.txt", "in.txt.gz", "in.parquet"])
def test_meter_ends_at_the_size_on_disk(name, tmp_path):
    path = write(tmp_path / name, encoded(name.split(".")[1], TEXTS * 500, tmp_path))
    meter = ByteMeter(done=100)
    assert len(list(read_texts([path], max_bad_rows=0, tally=Tally(), meter=meter))) == 2000
    assert meter.done == 100 + path.stat().st_size


def test_files_are_read_in_the_given_order(tmp_path):
    first, second = write(tmp_path / "b.txt", b"one\n"), write(tmp_path / "a.txt", b"two\n")
    assert read(first, second)[0] == ["one", "two"]


def test_suffix_is_not_case_sensitive(tmp_path):
    assert read(write(tmp_path / "IN.TXT", b"one\n"))[0] == ["one"]


def test_txt_skips_blank_lines_and_drops_windows_line_endings(tmp_path):
    path = write(tmp_path / "in.txt", b"\xef\xbb\xbfone\r\n\r\n  \ntwo\x00nul\rsame line\nlast")
    assert read(path) == (["one", "two\x00nul\rsame line", "last"], Found(), 0)


def test_bad_json_rows_are_counted_with_their_line(tmp_path):
    rows = [
        b'{"text": "good"}',
        b'{"text": "broken',
        b"",
        b'{"text": "\xff"}',
        b'{"title": "no text"}',
        b'{"text": 5}',
        b'["text"]',
        b'{"text": null}',
        b'{"text": " \\n "}',
        b'{"text": "nul \\u0000 and \\ud800 kept"}',
    ]
    path = write(tmp_path / "in.jsonl", b"\n".join(rows))
    texts, bad, empty = read(path)
    assert texts == ["good", "nul \x00 and \ud800 kept"]
    assert (bad.count, empty) == (6, 1)
    assert bad.first == [
        f"{path}:2: broken JSON (Unterminated string starting at column 10)",
        f"{path}:4: invalid UTF-8 at byte 11 of the line",
        f"{path}:5: no field 'text', found 'title'; correct the row, or change the field name to that of the text "
        "(--field, or data.field in a recipe)",
        f"{path}:6: field 'text' is a whole number, expected a string",
        f"{path}:7: found a list, expected one object per line",
    ]


def test_deeply_nested_json_is_one_bad_row(tmp_path):
    path = write(tmp_path / "in.jsonl", b"[" * 100_000 + b'\n{"text": "good"}\n')
    texts, bad, _ = read(path)
    assert (texts, bad.count) == (["good"], 1)


def test_bad_csv_rows_are_counted_with_their_first_line(tmp_path):
    lines = [
        b"id,body",
        b'1,"two\nlines"',  # lines 2 and 3
        b"2,too,many",
        b"3,\xff\xfe",
        b'4,"a"b',
        b"5,good",
        b'6,"never closed',
        b"7,swallowed",
    ]
    path = write(tmp_path / "in.csv", b"\n".join(lines))
    texts, bad, _ = read(path, field="body")
    assert texts == ["two\nlines", "good"]
    assert bad.first == [
        f"{path}:4: 3 columns, expected 2",
        f"{path}:5: invalid UTF-8 in column 'body'",
        f"{path}:6: broken CSV (',' expected after '\"')",
        f"{path}:8: broken CSV (unexpected end of data)",
    ]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_one_megabyte_in_one_row_is_read(kind, tmp_path):
    text = "word " * 200_000 + "end"
    name = f"in.{kind}" if kind == "parquet" else f"in.{kind}.gz"
    assert read(write(tmp_path / name, encoded(kind, [text], tmp_path)))[0] == [text]


def test_overlong_line_is_a_bad_row_and_the_next_line_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 10)
    path = write(tmp_path / "in.txt", b"short\n" + b"x" * 35 + b"\n123456789\n1234567890\nlast")
    texts, bad, _ = read(path)
    assert texts == ["short", "123456789", "last"]
    assert bad.first == [f"{path}:2: line longer than 10 bytes", f"{path}:4: line longer than 10 bytes"]


def test_parquet_bad_values_are_counted_with_their_row(tmp_path):
    path = tmp_path / "in.parquet"
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    texts = pa.chunked_array([pa.array(["good", None, ""]), broken])
    pq.write_table(pa.table({"text": texts}), path)
    found, bad, empty = read(path)
    assert (found, bad.count, empty) == (["good"], 2, 1)
    assert bad.first == [f"{path}:2: field 'text' is null, expected a string", f"{path}:4: invalid UTF-8"]


@pytest.mark.parametrize("cut", [0, 5, 30, -1])
def test_truncated_gzip_is_an_error_not_a_short_file(cut, tmp_path):
    path = tmp_path / "in.txt.gz"
    path.write_bytes(gzip.compress(os.urandom(500).hex().encode() + b"\nlast\n")[:cut])
    with pytest.raises(DataError, match=r"in\.txt\.gz: the \.gz file is damaged or truncated"):
        read(path)


def test_flipped_byte_in_gzip_is_an_error(tmp_path):
    path = tmp_path / "in.txt.gz"
    data = bytearray(gzip.compress(b"one line\n" * 50))
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or truncated"):
        read(path)


@pytest.mark.parametrize("damage", [lambda d: d[:-20], lambda d: b"PAR1" + d[200:], lambda d: b""])
def test_damaged_parquet_is_an_error(damage, tmp_path):
    path = write(tmp_path / "in.parquet", damage(encoded("parquet", TEXTS * 100, tmp_path)))
    with pytest.raises(DataError, match=r"in\.parquet: not a readable parquet file"):
        read(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_missing_column_names_the_columns(kind, tmp_path):
    path = write(tmp_path / f"in.{kind}", encoded(kind, TEXTS, tmp_path))
    with pytest.raises(
        DataError,
        match=r"one column named 'body'.*found 'id', 'text'; change the field name to that of the text column",
    ):
        read(path, field="body")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_values_that_are_not_texts_are_bad_rows_in_every_format(kind, tmp_path):
    path = write(tmp_path / f"in.{kind}", encoded(kind, TEXTS, tmp_path))
    texts, bad, _ = read(path, field="id")
    assert (texts, bad.count) == ([], len(TEXTS))
    assert bad.first[0] == f"{path}:1: field 'id' is a whole number, expected a string"


def test_wrong_paths_are_rejected_before_anything_is_read(tmp_path):
    good = write(tmp_path / "in.txt", b"one\n")
    with pytest.raises(UsageError, match=r"gone\.txt: no such file"):
        read_texts([good, tmp_path / "gone.txt"], max_bad_rows=0, tally=Tally())
    with pytest.raises(UsageError, match=r"in\.pdf: unknown kind of file; expected \.txt, \.jsonl"):
        read_texts([good, tmp_path / "in.pdf"], max_bad_rows=0, tally=Tally())
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UsageError, match=r"folder\.txt: not a file"):
        read_texts([good, tmp_path / "folder.txt"], max_bad_rows=0, tally=Tally())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_a_system_problem(tmp_path):
    path = write(tmp_path / "in.txt", b"one\n")
    path.chmod(0)
    with pytest.raises(SystemProblem, match=r"in\.txt: cannot be read"):
        read(path)


@pytest.mark.parametrize("indent", [None, 0, 2, "lines"])
@pytest.mark.parametrize("name", ["in.json", "in.jsonl", "in.json.gz"])
def test_a_json_array_is_read_like_its_objects(indent, name, tmp_path):
    """Also with one object per line, where all but the last used to be bad rows."""
    rows = [{"text": text} for text in TEXTS]
    lines = "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"
    data = lines if indent == "lines" else json.dumps(rows, indent=indent)
    path = write(tmp_path / name, data.encode())
    assert read(path) == (TEXTS, Found(), 0)
    assert [row.values for row in read_rows(path)] == rows


def test_a_damaged_json_array_is_an_error_and_an_odd_item_a_bad_row(tmp_path):
    path = write(tmp_path / "in.json", b'[{"text": "a"}, 3]')
    texts, bad, _ = read(path)
    assert (texts, bad.first) == (["a"], [f"{path}:2: item 2 is a whole number, expected an object"])
    with pytest.raises(DataError, match=r"begins with '\[', but is not one JSON array"):
        read(write(tmp_path / "in.json", b'[\n{"text": "a"},\n{"text"'))


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary_view()]
)
def test_both_readers_read_every_column_of_texts(kind, tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": pa.array(TEXTS).cast(kind)}), path)
    assert read(path) == (TEXTS, Found(), 0)
    assert [row.values["text"] for row in read_rows(path)] == TEXTS


def test_bytes_that_are_no_text_are_a_bad_row(tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": [b"a", b"\xff\xfe\x00"]}), path)
    reason = "field 'text' is bytes that are not UTF-8, expected a string"
    assert read(path)[:2] == (["a"], Found(count=1, first=[f"{path}:2: {reason}"]))


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.jsonl", "in.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named_as_the_cause(name, encoding, tmp_path):
    path = write(tmp_path / name, "\ufefftext\na\n".encode(encoding))
    with pytest.raises(DataError, match="the file is UTF-16, expected UTF-8; write it again as UTF-8"):
        read(path)


@pytest.mark.parametrize(
    ("name", "sign", "message"),
    [
        ("in.csv", b";", "the columns are separated by semicolons; save the file with commas"),
        ("in.csv", b"\t", "the columns are separated by tabs; save the file with commas"),
        ("in.tsv", b";", "the columns are separated by semicolons; save the file with tabs"),
        ("in.tsv", b",", "the columns are separated by commas; save the file with tabs"),
    ],
)
def test_another_separator_is_named_as_the_cause(name, sign, message, tmp_path):
    path = write(tmp_path / name, b"id" + sign + b"text\n1" + sign + b"a\n")
    for reader in (read, lambda path: list(read_rows(path)))[name == "in.tsv" :]:
        with pytest.raises(DataError, match=message):
            reader(path)


def test_a_separator_in_the_name_of_the_wanted_column_is_no_fault(tmp_path):
    assert read(write(tmp_path / "in.csv", b"a;b\nx\n"), field="a;b")[0] == ["x"]
