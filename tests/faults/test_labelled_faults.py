"""Damaged, truncated or foreign labeled files give one clear error, never an incomplete or wrong training set."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm.errors import DataError, MinilmError, UsageError
from minilm.tasks.text.glue import GLUE
from minilm.tasks.text.rows import read_text_rows

SST = GLUE["sst-2"]
TSV = b"sentence\tlabel\n" + b"a fine film\t1\na dull film\t0\n" * 200


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rejection(path: Path, task=SST) -> str:
    with pytest.raises(MinilmError) as caught:
        read_text_rows(path, task)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (DataError, UsageError))
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("cut", [0, 5, 40, -1])
def test_a_truncated_gzip_is_an_error_not_a_short_training_set(cut, tmp_path):
    path = write(tmp_path / "train.tsv.gz", gzip.compress(TSV)[:cut])
    assert "train.tsv.gz: the .gz file is damaged or truncated" in rejection(path)


def test_a_truncated_parquet_is_an_error(tmp_path):
    pq.write_table(pa.table({"sentence": ["x"] * 100, "label": [1] * 100}), tmp_path / "whole.parquet")
    path = write(tmp_path / "train.parquet", (tmp_path / "whole.parquet").read_bytes()[:-20])
    assert rejection(path).startswith("train.parquet: not a readable parquet file (")


def test_a_file_for_another_task_is_an_error(tmp_path):
    path = write(tmp_path / "train.tsv", b"index\tquestion\tsentence\tlabel\n0\tWhy?\tSo.\tentailment\n")
    assert (
        rejection(path)
        == "train.tsv:2: column 'label': found label 'entailment', expected one of 0, 1; correct the row"
    )
    assert rejection(path, GLUE["rte"]) == (
        "train.tsv:2: task 'rte' expects the columns 'sentence1', 'sentence2', 'label', found 'index', 'question', "
        "'sentence', 'label'; name the file's own columns, for example --set task.text=sentence "
        "--set task.text_pair=COLUMN (minilm predict: --text sentence --text-pair COLUMN), or rename them"
    )


def test_an_unlabeled_test_file_is_rejected_as_a_dev_file(tmp_path):
    path = write(tmp_path / "test.tsv", b"index\tsentence\n0\ta film\n")
    assert rejection(path) == (
        "test.tsv:2: task 'sst-2' expects the columns 'sentence', 'label', found 'index', 'sentence'; "
        "name the file's own columns, for example --set task.label=COLUMN, or rename them"
    )


def test_cola_with_other_columns_is_an_error_not_an_empty_set(tmp_path):
    path = write(tmp_path / "train.tsv", b"The cat sat.\t1\nCat the sat.\t0\n")
    assert rejection(path, GLUE["cola"]) == (
        "train.tsv: found no row with a label, expected at least one; 2 rows with more or fewer columns than expected "
        "skipped (first: train.tsv:1: 2 columns, expected 4)"
    )


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("5.2", "found 5.2, expected a number from 0 to 5"),
        (-0.5, "found -0.5, expected a number from 0 to 5"),
        ("high", "found a string, expected a number"),
        (float("nan"), "found nan, expected a finite number"),
        (None, "found null, expected a finite number"),
    ],
)
def test_an_invalid_score_is_an_error(score, message, tmp_path):
    row = {"sentence1": "a", "sentence2": "b", "score": score}
    path = write(tmp_path / "train.jsonl", json.dumps(row).encode())
    assert rejection(path, GLUE["sts-b"]) == f"train.jsonl:1: column 'score': {message}; correct the row"


def test_labels_of_later_rows_are_checked_too(tmp_path):
    path = write(tmp_path / "train.tsv", TSV + b"a film\t2\n")
    assert rejection(path) == "train.tsv:402: column 'label': found label '2', expected one of 0, 1; correct the row"


@pytest.mark.parametrize("name", ["train.tsv", "train.csv", "train.jsonl"])
def test_an_empty_file_is_an_error(name, tmp_path):
    assert rejection(write(tmp_path / name, b"")) == f"{name}: found no row with a label, expected at least one"


def test_an_unknown_kind_of_file_and_a_missing_one_are_rejected(tmp_path):
    assert rejection(tmp_path / "gone.tsv") == "gone.tsv: no such file; check the input path"
    assert rejection(write(tmp_path / "train.xlsx", b"")).startswith(
        "train.xlsx: unknown kind of file; expected .tsv, "
    )


def test_a_row_of_one_megabyte_is_read(tmp_path):
    path = write(tmp_path / "train.tsv", b"sentence\tlabel\n" + b"word " * 200_000 + b"\t1\n")
    assert [len(row.text) for row in read_text_rows(path, SST)] == [1_000_000]
