"""`minilm embed` as users type it: every input and output, roles, precisions, a second start, and errors with lines."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import minilm
from minilm.cli.app import main
from minilm.infer.bulk import embed as bulk
from minilm.infer.bulk.journal import Unfinished
from minilm.infer.bulk.seen_ids import SeenIds
from minilm.infer.vector_precision import quantized, ranges_of
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.vector_modules import Normalize
from minilm.model.vector_ranges import VECTOR_RANGES, read_vector_ranges, write_vector_ranges

TEXTS = ["w1 w2 w3", "w9", "w4 w5 w6 w7 w8 w9 w10", "", "w2 w2"]
WIDTH = 16


@pytest.fixture
def folder(generator_dir):
    settings = EmbeddingSettings(modules=(Normalize(),), max_tokens=8, prompts={"query": "w50 "})
    write_embedding(generator_dir, settings, hidden_size=WIDTH)
    return generator_dir


@pytest.fixture
def model(folder):
    return minilm.load(folder)


@pytest.fixture
def embed(folder, tmp_path, monkeypatch, capsys, caplog):
    """`embed("--flag", ...)` in a separate folder with in.txt: exit code, output and warnings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in TEXTS))

    def run(*words):
        caplog.clear()
        with pytest.raises(SystemExit) as done:
            main(["embed", str(folder), *map(str, words)])
        captured = capsys.readouterr()
        return done.value.code, "\n".join([captured.out + captured.err, *caplog.messages])

    return run


def rows_of(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line]


# --- inputs and outputs --------------------------------------------------------------------------


def write(path):
    rows = [{"id": f"q{number}", "text": text} for number, text in enumerate(TEXTS)]
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        return pq.write_table(pa.Table.from_pylist(rows), path)
    if kind == "csv":
        return path.write_text("text,id\n" + "".join(f"{row['text']},{row['id']}\n" for row in rows))
    lines = TEXTS if kind == "txt" else map(json.dumps, rows)
    data = "".join(f"{line}\n" for line in lines).encode()
    return path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "parquet", "txt"])
def test_every_kind_of_input_is_read(embed, tmp_path, model, kind):
    write(tmp_path / f"rows.{kind}")
    code, said = embed("--input", f"rows.{kind}", "--output", "out.jsonl")
    assert code == 0
    assert "5 vectors of 16 dimensions are in out.jsonl" in said
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == [str(n) if kind == "txt" else f"q{n}" for n in range(5)]
    np.testing.assert_array_equal(np.float32([row["vector"] for row in rows]), model.encode(TEXTS))
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_every_kind_of_output_has_the_same_vectors(embed, tmp_path, model):
    for name in ("out.npy", "out.parquet", "out.jsonl"):
        assert embed("--input", "in.txt", "--output", name)[0] == 0
    expected = model.encode(TEXTS)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    np.testing.assert_array_equal(np.float32([row["vector"] for row in rows_of(tmp_path / "out.jsonl")]), expected)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["0", "1", "2", "3", "4"]
    assert table.schema.field("vector").type.list_size == WIDTH
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), expected)
    assert json.loads(table.schema.metadata[b"minilm"])["dimensions"] == WIDTH


def test_pipes(embed, tmp_path, monkeypatch, model):
    data = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'{"id": 7, "text": "w1 w2 w3"}\n')))
    monkeypatch.setattr("sys.stdin", data)
    code, said = embed("--input", "-", "--output", "-")
    [row] = [json.loads(line) for line in said.split("\n") if line.startswith("{")]
    assert (code, row["id"]) == (0, "7")
    np.testing.assert_array_equal(np.float32([row["vector"]]), model.encode(TEXTS[:1]))


def test_chunks_of_any_size_give_the_same_file(embed, tmp_path, monkeypatch):
    embed("--input", "in.txt", "--output", "whole.npy")
    monkeypatch.setattr(bulk, "TEXTS_PER_CHUNK", 2)
    monkeypatch.setattr(bulk, "CHARACTERS_PER_CHUNK", 12)
    embed("--input", "in.txt", "--output", "parts.npy")
    np.testing.assert_allclose(np.load(tmp_path / "parts.npy"), np.load(tmp_path / "whole.npy"), atol=1e-6)


@pytest.mark.parametrize("name", ["out.npy", "out.parquet", "out.jsonl", "-"])
def test_an_input_without_rows_is_an_error(embed, tmp_path, name):
    (tmp_path / "empty.jsonl").write_text("")
    before = set(tmp_path.iterdir())
    code, said = embed("--input", "empty.jsonl", "--output", name)
    assert (code, "empty.jsonl: found no row, expected at least one text" in said) == (3, True)
    assert set(tmp_path.iterdir()) == before


def test_what_was_truncated_or_empty_is_counted(embed, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "TEXTS_PER_CHUNK", 2)
    _, said = embed("--input", "in.txt", "--output", "out.npy")
    assert "1 of 5 texts were longer than 8 tokens and were truncated (first: in.txt:3)" in said
    assert "1 of 5 texts are empty (first: in.txt:4)" in said


# --- roles, dimensions, precisions ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--role", "query"], {"role": "query"}),
        (["--role", "document"], {"role": "document"}),
        (["--prompt", "w3 "], {"prompt": "w3 "}),
        (["--dimensions", "5"], {"dimensions": 5}),
        (["--vectors", "fp16", "--dimensions", "5"], {"vectors": "fp16", "dimensions": 5}),
        (["--vectors", "binary", "--dimensions", "11"], {"vectors": "binary", "dimensions": 11}),
    ],
)
def test_options_mean_what_they_mean_in_python(embed, tmp_path, model, flags, options):
    assert embed("--input", "in.txt", "--output", "out.npy", *flags)[0] == 0
    found, expected = np.load(tmp_path / "out.npy"), model.encode(TEXTS, **options)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
def test_each_precision_is_read_back(embed, tmp_path, model, name):
    for vectors in ("fp16", "binary"):
        assert embed("--input", "in.txt", "--output", name, "--vectors", vectors)[0] == 0
        path = tmp_path / name
        rows = pq.read_table(path).to_pylist() if name.endswith("parquet") else rows_of(path)
        expected = model.encode(TEXTS, vectors=vectors)
        found = np.array([row["vector"] for row in rows], dtype=expected.dtype)
        np.testing.assert_array_equal(found, expected)


def test_int8_by_calibration_then_by_its_ranges_then_by_the_folder(embed, tmp_path, model, folder):
    """All three give the same vectors; queries are embedded with the ranges of the documents."""
    code, said = embed("--input", "in.txt", "--output", "a.npy", "--vectors", "int8", "--calibrate", "in.txt")
    assert code == 0
    assert "in.txt has 5 texts; ranges of int8 are more stable" in said
    ranges = ranges_of(model.encode(TEXTS))
    np.testing.assert_array_equal(read_vector_ranges(tmp_path / "a.npy.ranges.json", dimensions=WIDTH), ranges)
    expected = quantized(model.encode(TEXTS), "int8", ranges)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    flags = ["--input", "in.txt", "--output", "b.parquet", "--vectors", "int8"]
    assert embed(*flags, "--calibrate", "a.npy.ranges.json")[0] == 0
    np.testing.assert_array_equal(np.stack(pq.read_table(tmp_path / "b.parquet")["vector"].to_numpy()), expected)
    write_vector_ranges(folder / VECTOR_RANGES, ranges)
    assert embed("--input", "in.txt", "--output", "-", "--vectors", "int8")[0] == 0
    np.testing.assert_array_equal(model.encode(TEXTS, vectors="int8"), expected)


def test_values_outside_the_ranges_are_counted(embed, folder):
    write_vector_ranges(folder / VECTOR_RANGES, np.zeros((2, WIDTH), dtype=np.float32))
    _, said = embed("--input", "in.txt", "--output", "out.npy", "--vectors", "int8")
    assert "5 of 5 vectors had a value outside the ranges of int8, which became the end of its range" in said


# --- a second start ------------------------------------------------------------------------------


@pytest.fixture
def stop_after(monkeypatch):
    """Ctrl-C after so many chunks of two rows."""
    monkeypatch.setattr(bulk, "TEXTS_PER_CHUNK", 2)
    add = Unfinished.add

    def stop(count):
        def counted(self, rows):
            add(self, rows)
            if len(self) == count:
                raise KeyboardInterrupt

        monkeypatch.setattr(Unfinished, "add", counted)

    return stop


def test_a_second_start_computes_only_the_rest(embed, tmp_path, stop_after, monkeypatch):
    embed("--input", "in.txt", "--output", "whole.npy")
    stop_after(2)
    code, said = embed("--input", "in.txt", "--output", "out.npy")
    assert (code, (tmp_path / "out.npy").exists()) == (130, False)
    assert "run the same command to finish out.npy" in said
    stop_after(0)
    computed = []
    stored = bulk.stored_part
    monkeypatch.setattr(
        bulk, "stored_part", lambda *given, **named: computed.append(given[1]) or stored(*given, **named)
    )
    code, said = embed("--input", "in.txt", "--output", "out.npy")
    assert (code, computed) == (0, [TEXTS[4:]])
    assert "resuming" in said
    assert "1 of 5 texts are empty (first: in.txt:4)" in said  # found by the first start
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.load(tmp_path / "whole.npy"))


@pytest.mark.parametrize("texts", [["w1 w2 w3", "w9", "w4", "w5"], TEXTS[:2], [*TEXTS[:3], "w7"]])
def test_another_input_is_rejected(embed, tmp_path, stop_after, texts):
    stop_after(2)
    embed("--input", "in.txt", "--output", "out.npy")
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in texts))
    code, said = embed("--input", "in.txt", "--output", "out.npy")
    assert code == 2
    where = "end of in.txt" if len(texts) == 2 else "in.txt:3"
    assert f"{where}: rows 2 and following (from 0) are not those that were embedded for out.npy before" in said


def test_other_options_are_rejected(embed, stop_after):
    stop_after(1)
    embed("--input", "in.txt", "--output", "out.npy")
    code, said = embed("--input", "in.txt", "--output", "out.npy", "--dimensions", "4", "--role", "query")
    assert code == 2
    assert "finished rows of another job (different: prompt, dimensions)" in said


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"text": "w1"}\n{"text": 5}\n', "bad.jsonl:2: text is a whole number, expected a string; correct the row"),
        ('{"text": "w1"}\n{"text": null}\n', "bad.jsonl:2: text is null, expected a string"),
        ('{"text": "w1"}\n{"body": "w2"}\n', "bad.jsonl:2: no field 'text', found 'body'; correct the row, or name"),
        ('{"text": "w1"}\n\n[1]\n', "bad.jsonl:3: found a list, expected one object per line"),
        ('{"text": "w1"}\n{"text": "w', "bad.jsonl:2: broken JSON"),
        ('{"text": "w1", "id": 1}\n{"text": "w2"}\n', "bad.jsonl:2: found no id, expected a text or a whole number"),
        ('{"text": "w1", "id": [1]}\n', "bad.jsonl:1: id is a list, expected a text or a whole number"),
    ],
)
def test_a_bad_row_is_named_with_its_line(embed, tmp_path, rows, message):
    (tmp_path / "bad.jsonl").write_text(rows)
    code, said = embed("--input", "bad.jsonl", "--output", "out.npy")
    assert code == 3
    assert message in said
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("size", [2, 4096])
def test_an_id_that_occurs_again_is_named_with_both_lines(embed, tmp_path, monkeypatch, size):
    """In one chunk or in two, of a file or a stream; `.npy` holds no ids, so that they do not matter there."""
    monkeypatch.setattr(bulk, "TEXTS_PER_CHUNK", size)
    names = ["a", "b", "c", "d", "b"]
    rows = "".join(json.dumps({"key": name, "text": "w1"}) + "\n" for name in names)
    (tmp_path / "rows.jsonl").write_text(rows)
    code, said = embed("--input", "rows.jsonl", "--output", "out.parquet", "--id", "key")
    assert code == 3
    assert "rows.jsonl:5: found the id 'b' of rows.jsonl:2 again; expected another one for each row; correct" in said
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(rows.encode()))))
    code, said = embed("--input", "-", "--output", "-", "--id", "key")
    assert code == 3
    assert f":5: found the id 'b' of {'an earlier row' if size == 2 else 'standard input:2'} again" in said
    assert embed("--input", "rows.jsonl", "--output", "out.npy", "--id", "key")[0] == 0
    (tmp_path / "rows.jsonl").write_text(rows[::-1].replace("b", "e", 1)[::-1])
    assert embed("--input", "rows.jsonl", "--output", "out.parquet", "--id", "key")[0] == 0


def test_ids_of_equal_hash_are_not_taken_for_one(embed, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "TEXTS_PER_CHUNK", 2)
    monkeypatch.setattr(SeenIds, "add", lambda self, ids: list(range(len(ids))))
    (tmp_path / "rows.csv").write_text("id,text\n" + "".join(f"{number},w1\n" for number in range(5)))
    assert embed("--input", "rows.csv", "--output", "out.jsonl")[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "out.csv"], "--output is out.csv; expected a name that ends in .npy, .parquet or .jsonl"),
        (["--output", "in.npy", "--text", "body"], "--text body: in.txt has no named columns"),
        (["--role", "passage"], "role is 'passage'; this model has 'query', 'document'"),
        (["--role", "query", "--prompt", "x"], "found both prompt and role"),
        (["--dimensions", "17"], "dimensions is 17; expected 1 to 16"),
        (["--vectors", "int8"], "has no vector_ranges.json, which int8 vectors need"),
        (["--calibrate", "in.txt"], "gives ranges for --vectors int8, but --vectors is fp32"),
        (
            ["--vectors", "int8", "--calibrate", "in.txt", "--output", "-"],
            "written beside the output, but --output is -",
        ),
        (["--vectors", "int8", "--calibrate", "none.txt"], "none.txt: no such file"),
    ],
)
def test_options_that_do_not_fit(embed, flags, message):
    code, said = embed("--input", "in.txt", *([] if "--output" in flags else ["--output", "out.npy"]), *flags)
    assert code == 2
    assert message in said


def test_the_input_is_not_overwritten(embed, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "w1"}\n')
    code, said = embed("--input", "x.jsonl", "--output", "./x.jsonl")
    assert code == 2
    assert "--input and --output are the same file" in said


def test_one_text_has_no_ranges(embed, tmp_path):
    (tmp_path / "one.txt").write_text("w1\n")
    code, said = embed("--input", "in.txt", "--output", "out.npy", "--vectors", "int8", "--calibrate", "one.txt")
    assert code == 3
    assert "one.txt: found 1 texts, which have no ranges" in said
