"""Rows are written in the format of the name, and what is written is read back with the same ids and values."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from minilm.errors import UsageError
from minilm.files.by_id import as_number, read_by_id
from minilm.files.fields import as_text
from minilm.files.row_writer import ROW_SUFFIXES, require_suffix, writing_rows
from minilm.files.rows import read_rows

FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
ODD = 'say "hi", they said; naïve 日本語 \\n'
ROWS = [
    {"id": "a", "prediction": ODD, "scores": {"low": 0.25, "very high": 0.75}, "start": None},
    {"id": "1", "prediction": "", "scores": {"low": 1e-07, "very high": 1.0}, "start": 3},
    {"id": "c", "prediction": "007", "scores": {"low": 0.5, "very high": 0.5}, "start": 0},
]


def write(path: Path, *chunks: list[dict[str, object]]) -> Path:
    with writing_rows(path) as write_rows:
        for chunk in chunks:
            write_rows(chunk)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_is_read_back(tmp_path, suffix):
    path = write(tmp_path / f"out{suffix}", ROWS[:1], ROWS[1:])
    assert [str(row.values["id"]) for row in read_rows(path)] == ["a", "1", "c"]
    assert read_by_id(path, as_text, fields=("prediction",)) == {"a": ODD, "1": "", "c": "007"}
    if suffix != ".jsonl":  # there it is an object
        assert read_by_id(path, as_number, fields=("scores.low",)) == {"a": 0.25, "1": 1e-07, "c": 0.5}
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_tables_have_a_column_for_each_label(tmp_path):
    path = write(tmp_path / "out.csv", ROWS)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "prediction", "scores.low", "scores.very high", "start"]
    assert [row["start"] for row in rows] == ["", "3", "0"]
    assert rows[0]["prediction"] == ODD
    assert b"\r" not in path.read_bytes()


def test_parquet_keeps_types_though_the_first_chunk_has_only_nulls(tmp_path):
    import pyarrow.parquet as pq

    first, second = {"id": "a", "prediction": [], "start": None}, {"id": "b", "prediction": ["x"], "start": 2}
    table = pq.read_table(write(tmp_path / "out.parquet", [first], [second]))
    assert table.to_pylist() == [first, second]
    assert str(table.schema.field("start").type) == "int64"


@pytest.mark.parametrize("suffix", FORMATS)
def test_sets_of_labels_are_read_back(tmp_path, suffix):
    rows = [{"id": "a", "prediction": ["x", 'y"'], "scores": {}}, {"id": "b", "prediction": [], "scores": {}}]
    path = write(tmp_path / f"out{suffix}", rows)

    def as_set(value: object) -> list[object]:
        if not isinstance(value, list):
            raise ValueError("no list")
        return value

    assert read_by_id(path, as_set, fields=("prediction",)) == {"a": ["x", 'y"'], "b": []}


def test_a_tsv_writes_breaks_as_spaces_and_counts_them(tmp_path, caplog):
    path = write(tmp_path / "out.tsv", [{"id": "a\tb", "prediction": "one\ntwo\r"}, {"id": "c", "prediction": "three"}])
    assert path.read_text() == "id\tprediction\na b\tone two \nc\tthree\n"
    assert caplog.messages == [
        "2 cells had a tab or line break, which .tsv cannot hold, and were written with a space (use .csv)"
    ]


@pytest.mark.parametrize("suffix", FORMATS[1:])
def test_a_table_without_rows_has_its_columns(tmp_path, suffix):
    path = write(tmp_path / f"out{suffix}")
    assert list(read_rows(path)) == []
    assert path.stat().st_size > 0


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_lone_surrogate_is_written_as_its_escape(tmp_path, suffix):
    path = write(tmp_path / f"out{suffix}", [{"id": "a", "prediction": "\ud800"}])
    [row] = read_rows(path)
    assert row.values["prediction"] == ("\ud800" if suffix == ".jsonl" else "\\ud800")
    assert suffix != ".jsonl" or json.loads(path.read_text()) == {"id": "a", "prediction": "\ud800"}


def test_an_error_leaves_no_file(tmp_path):
    def stopped() -> None:
        with writing_rows(tmp_path / "out.parquet") as write_rows:
            write_rows(ROWS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out", "out.json", "out.jsonl.gz", "out.xlsx"])
def test_another_suffix_is_rejected(name):
    with pytest.raises(UsageError) as caught:
        require_suffix(Path(name), ROW_SUFFIXES, option="--output")
    assert str(caught.value) == f"--output is {name}; expected a name that ends in .jsonl, .csv, .tsv or .parquet"
    require_suffix(Path("OUT.CSV"), ROW_SUFFIXES, option="--output")


def test_a_folder_is_rejected_before_anything_is_written(tmp_path):
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"--output is .*out\.jsonl, which is a folder; name a file in it"):
        require_suffix(tmp_path / "out.jsonl", ROW_SUFFIXES, option="--output")
