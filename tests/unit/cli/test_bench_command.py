"""`minilm bench`: tables, files, and mistakes that are found before minutes are spent on measuring."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from tests.commands import minilm

from minilm.bench import encode, model, plot
from minilm.cli.bench import sides_table

ROW = {"workload": "400 in one call", "side": "native fp32", "seconds": 2.0, "tokens_per_second": 12345.6}
LATENCY = {"workload": "10 tokens, p50", "side": "native fp32", "seconds": 0.1, "tokens_per_second": 4000.0}
PEER = {"workload": "400 in one call", "side": "sentence-transformers", "seconds": 9.0, "tokens_per_second": 1000.0}
FACTS = {"machine": {"cpu": "Some CPU"}, "instruction set": "avx2", "threads": 2, "peaks": {"fp32": 190.2}}
ENCODED = {
    **FACTS,
    "sides": [{"name": "native fp32", "start_seconds": 0.214, "memory_mb": 128.4, "least_cosine": 0.9999999}],
    "rows": [
        {**ROW, "p50_ms": None, "share": 0.876, "ratio": 4.5},
        {**PEER, "p50_ms": None, "share": None, "ratio": None},
        {**LATENCY, "p50_ms": 1.234, "share": 0.5, "ratio": 2.0},
    ],
    "left_out": ["native bf16 is left out: no unit"],
}


@pytest.fixture
def measured(monkeypatch, real_model_dir):
    """Measuring returns at once; what it was asked for."""
    asked = {}

    def bench_encode(folder, **options):
        asked.update(options, folder=folder)
        return ENCODED

    monkeypatch.setattr(encode, "bench_encode", bench_encode)
    return asked


def test_the_table_shows_speed_share_of_peak_and_ratio(measured, capsys):
    assert minilm("bench", "encode", "--threads", 2) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Some", "CPU,", "2", "threads,", "kernels", "for", "avx2"] in lines
    assert ["native", "fp32", "12,346", "88%", "4.50x"] in lines
    assert ["sentence-transformers", "1,000"] in lines
    assert ["native", "fp32", "4,000", "1.23", "50%", "2.00x"] in lines
    assert ["native", "fp32", "0.21", "s", "128", "MB", "1.000000"] in lines
    assert ["native", "bf16", "is", "left", "out:", "no", "unit"] in lines
    assert measured["threads"] == 2
    assert len(measured["texts"]) == 400


def test_vectors_that_are_not_finite_are_shown():
    """The numbers are JSON, and so are stored, after minutes; JSON has no NaN."""
    vectors = np.array([[1, 0], [np.nan, 1]], dtype=np.float32)
    assert encode._least_cosine(vectors, vectors) is None
    assert encode._least_cosine(vectors[:1], vectors[:1]) == 1
    side = {**ENCODED["sides"][0], "least_cosine": None}
    assert "not a number" in sides_table([side])


def test_json_and_plot_are_written(measured, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need it: pip install 'minilm[plot]'")
    (tmp_path / "mine.txt").write_text("one\ntwo\n")
    source, out, image = (tmp_path / name for name in ("mine.txt", "out.json", "out.svg"))
    assert minilm("bench", "encode", "--input", source, "--json", out, "--plot", image) == 0
    assert json.loads(out.read_text()) == ENCODED
    assert "10 tokens, p50" in image.read_text()
    assert "Some CPU" in image.read_text()
    assert measured["texts"] == ["one", "two"]


def test_the_name_of_the_text_can_be_given(measured, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"body": "one"}\n')
    assert minilm("bench", "encode", "--input", tmp_path / "mine.jsonl", "--field", "body") == 0
    assert measured["texts"] == ["one"]


def test_the_shapes_are_shown_beside_the_published_speeds(monkeypatch, capsys, tmp_path):
    row = {"engine": "native", "tokens": 128, "sequences": 8, "share": 0.8}
    rows = [
        {**row, "shape": "BERT-Base", "seconds": 0.1, "ratio": 1.0},
        {**row, "shape": "L6-H384", "seconds": 0.0125, "ratio": 8.0},
    ]
    found = {**FACTS, "published": model.PUBLISHED, "rows": rows, "left_out": []}
    monkeypatch.setattr(model, "bench_model", lambda **options: found)
    assert minilm("bench", "model", "--json", tmp_path / "shapes.json") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["BERT-Base", "1.0x", "100.0", "(1.0x)"] in lines
    assert ["L6-H384", "5.3x", "12.5", "(8.0x)"] in lines
    assert json.loads((tmp_path / "shapes.json").read_text()) == found


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--json", "gone/out.json"], 2, "--json gone/out.json: the folder gone does not exist: create it first"),
        (["--plot", "."], 2, "--plot . is a folder; expected the name of a file"),
        (["--plot", "out.txt"], 2, "--plot out.txt: expected a name that ends in .svg, .png, .pdf"),
        (["--json", "a.svg", "--plot", "./a.svg"], 2, "--json and --plot are the same file, a.svg"),
        (["--input", "a.txt", "--json", "a.txt"], 2, "--input and --json are the same file, a.txt"),
        (["--input", "gone.txt"], 2, "gone.txt"),
        (["gone"], 3, "gone"),
        (["--threads", "5000"], 2, "threads is 5000; expected a whole number from 1 to 1024"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(arguments, code, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encode, "compare", lambda *_, **__: pytest.fail("measured"))
    assert minilm("bench", "encode", *arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_shapes_are_not_measured_with_more_threads_than_an_engine_takes(monkeypatch, capsys):
    monkeypatch.setattr(model, "unit_peaks", lambda _: pytest.fail("measured"))
    assert minilm("bench", "model", "--threads", 5000) == 2
    assert "threads is 5000; expected a whole number from 1 to 1024" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_found_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    for command, module in (("encode", encode), ("model", model)):
        monkeypatch.setattr(module, f"bench_{command}", lambda *_, **__: pytest.fail("measured"))
        assert minilm("bench", command, "--json", tmp_path / "out.json") == 4
        assert "out.json: permission denied: choose another folder" in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_an_error_at_once(monkeypatch, capsys):
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    assert minilm("bench", "encode", "--plot", "out.svg") == 4
    assert "--plot needs matplotlib; install it with: pip install 'minilm[plot]'" in capsys.readouterr().err
