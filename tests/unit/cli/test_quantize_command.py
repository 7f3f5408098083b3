"""`minilm quantize` as a user types it: a table and a folder, or a table and one line."""

from __future__ import annotations

import io
import re

import pytest
from tests.commands import minilm, rows_of

from minilm.kernels.encoder import library_reason

pytestmark = pytest.mark.skipif(bool(library_reason()), reason=library_reason() or "there are kernels")


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """`speed(fp32, int8)`: seconds; int8 is the faster one until it is called."""

    def pretend(fp32, int8):
        monkeypatch.setattr("minilm.export.quantize.best_seconds", lambda *_: (fp32, int8))

    pretend(3.0, 2.0)
    return pretend


@pytest.fixture(scope="module")
def task(new_tiny_task, tmp_path_factory):
    made = new_tiny_task(tmp_path_factory.mktemp("tiny"))
    made.distillation.write_teacher(initializer_range=0.1)
    return made


def test_a_folder_and_its_table(task, tmp_path, capsys):
    out = tmp_path / "new" / "int8"
    assert minilm("quantize", task.model, "--texts", task.folder / "train.jsonl", "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"2\d texts calibrated, 2\d others were compared", lines[0]), "repeated texts count once"
    assert lines[1].split() == ["int8", "against", "fp32", "found", "expected"]
    assert [line.split("  ")[0] for line in lines[2:6]] == [
        "cosine, mean",
        "cosine, minimum",
        "overlap of the ten nearest",
        "speed, int8 over fp32",
    ]
    assert lines[5].split()[-4:] == ["1.50000", "at", "least", "1"]
    assert lines[-1] == f"{out} has the scales; load it with --precision int8"


def test_the_table_of_a_gate_that_fails(task, tmp_path, capsys, speed):
    """Exit code 3, the row that missed, one line, no folder."""
    speed(1.0, 2.0)
    out = tmp_path / "int8"
    assert minilm("quantize", task.model, "--texts", task.folder / "train.jsonl", "--out", out) == 3
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].split()[-5:] == ["0.50000", "at", "least", "1", "missed"]
    assert captured.err.splitlines()[-1] == (
        f"error: {task.model} is not written in int8: speed, int8 over fp32 is 0.50000, expected at least 1; use fp32, "
        "or calibrate with texts like those the model will read (--texts)"
    )
    assert not list(tmp_path.iterdir())


def test_texts_on_standard_input_and_predictions_in_int8(task, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    model = task.write_classifier("classifier", seed=1, labels=task.labels)
    text = "".join(f"word{number} word{number // 2}\n" for number in range(60))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text.encode()))))
    out = tmp_path / "int8"
    assert minilm("quantize", model, "--texts", "-", "--input-format", "text", "--out", out) == 0
    assert "labels that agree" in capsys.readouterr().out
    found = {}
    for precision in ("fp32", "int8"):
        file = tmp_path / f"{precision}.jsonl"
        options = ("--input", task.folder / "dev.jsonl", "--output", file, "--precision", precision)
        assert minilm("predict", out, *options) == 0
        found[precision] = rows_of(file)
    assert found["fp32"] != found["int8"]
    assert [row["id"] for row in found["fp32"]] == [row["id"] for row in found["int8"]]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--input-format", "csv"), 2, "--input-format csv is for standard input: add --texts -, or remove it"),
        (("--texts", "none.txt"), 2, "none.txt"),
        (("--texts", "-", "--labelled", "-"), 2, "--texts and --labelled are both -"),
        (("--threads", "0"), 2, "--threads"),
    ],
)
def test_mistakes_are_one_line(task, tmp_path, capsys, options, code, message):
    assert minilm("quantize", task.model, *options, "--out", tmp_path / "int8") == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_model_without_scales_names_the_command(task, tmp_path, capsys):
    pytest.importorskip("transformers")
    model = task.write_classifier("other", seed=1, labels=task.labels)
    files = ("--input", task.folder / "dev.jsonl", "--output", tmp_path / "p.jsonl")
    assert minilm("predict", model, *files, "--precision", "int8") == 2
    assert f"minilm quantize {model} --out DIR" in capsys.readouterr().err
    assert minilm("predict", model, *files, "--precision", "int8", "--engine", "torch") == 2
    assert "only the native engine does" in capsys.readouterr().err
