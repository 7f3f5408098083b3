"""Files of vectors: each format and type is read back exactly by the library that users read it with."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from minilm.files.vector_writer import vector_lines, writing_vectors

IDS = ["0", 'a "b"', "é\ud800"]


@pytest.fixture(params=["float32", "float16", "int8", "uint8"])
def vectors(request):
    found = np.random.default_rng(0).integers(-128, 128, (3, 5)).astype(request.param)
    if request.param == "float32":
        found[0] = [0, 0.1, -1e-45, 3.4e38, 1 / 3]
    return found


def written(path, vectors):
    with writing_vectors(path, dtype=vectors.dtype.name, width=5, count=3, facts={"prompt": "é"}) as write:
        write(IDS[:2], vectors[:2])
        write(IDS[2:], vectors[2:])
    return path


def test_numpy(tmp_path, vectors):
    found = np.load(written(tmp_path / "v.npy", vectors), mmap_mode="r")
    assert found.dtype == vectors.dtype
    np.testing.assert_array_equal(found, vectors)


def test_parquet(tmp_path, vectors):
    table = pq.read_table(written(tmp_path / "v.parquet", vectors))
    assert table["id"].to_pylist() == [*IDS[:2], "é\\ud800"]
    assert table.schema.field("vector").type.list_size == 5
    found = np.stack(table["vector"].to_numpy())
    assert found.dtype == vectors.dtype
    np.testing.assert_array_equal(found, vectors)
    assert json.loads(table.schema.metadata[b"minilm"]) == {"prompt": "é"}


def test_json_lines(tmp_path, vectors):
    rows = [json.loads(line) for line in written(tmp_path / "v.jsonl", vectors).read_text().split("\n") if line]
    assert [row["id"] for row in rows] == IDS
    np.testing.assert_array_equal(np.array([row["vector"] for row in rows], dtype=vectors.dtype), vectors)


def test_numbers_have_few_digits():
    line = vector_lines(["7"], np.array([[0.1, -2.5]], dtype=np.float32))
    assert line == b'{"id": "7", "vector": [0.1, -2.5]}\n'
