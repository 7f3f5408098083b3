"""The five example scripts run with tiny arguments, are short, and use public names only."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path, monkeypatch, real_model_dir):
    """`run(name, *arguments)` in an empty folder, with the embedded model and one step instead of a recipe's epochs."""
    monkeypatch.chdir(tmp_path)

    def start(name, *arguments):
        module = load(next(path for path in EXAMPLES if path.stem == name))
        if "RECIPE" in vars(module):
            module.RECIPE = re.sub(r"\bepochs: \d+", "steps: 1", module.RECIPE)
        module.main(arguments)

    return start


def test_the_five_scripts_are_under_60_lines_and_say_how_to_run_them():
    assert [path.stem for path in EXAMPLES] == ["answer", "classify", "distil", "encode", "generate"]
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, path.name
        docstring = ast.get_docstring(ast.parse(text)) or ""
        assert f"\n    python examples/{path.name}" in docstring
        assert set(re.findall(r"--[a-z]+", docstring)) <= set(re.findall(r'"(--[a-z]+)"', text)), path.name


def test_they_import_only_public_names():
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert "import minilm\n" in text
        assert not re.search(r"\b(from|import) minilm\.|\bminilm\._|from minilm import", text), path.name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_explains_itself_and_rejects_an_unknown_flag(path, capsys):
    module = load(path)
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: ")
    assert module.__doc__ in shown
    with pytest.raises(SystemExit, match="2"):
        module.main(["--colour=red"])
    assert capsys.readouterr().err.splitlines()[-1].endswith(": error: unrecognized arguments: --colour=red")


def test_encode_finds_the_nearest_text(run, capsys):
    run("encode", "How do I stop a loop early?", "--top", "1")
    assert re.fullmatch(r"0\.\d{3}  A break statement leaves .*\n", capsys.readouterr().out)


def test_encode_reads_texts_from_a_file(run, capsys, tmp_path):
    (tmp_path / "my.txt").write_text("The cat sleeps.\n\nStocks fell sharply.\n")
    run("encode", "A kitten takes a nap.", "--texts", "my.txt", "--top", "9")
    assert [line[7:] for line in capsys.readouterr().out.splitlines()] == ["The cat sleeps.", "Stocks fell sharply."]


@pytest.mark.slow
def test_distill_compares_teacher_and_student(run, capsys, tmp_path):
    pytest.importorskip("transformers", reason="distillation needs it: pip install 'minilm[hf]'")
    (tmp_path / "my.txt").write_text(
        "".join(f"The river passes the old bridge {number} times.\n" for number in range(80))
    )
    run("distil", "--texts", "my.txt", "--steps", "1", "--out", "out")
    loss, cosine = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"held-out loss: \d\.\d{4}; report: out/run/report.html", loss)
    assert (tmp_path / "out" / "run" / "report.html").is_file()
    assert -1 < float(cosine.rpartition(" ")[2]) < 1


@pytest.mark.slow
def test_classify_learns_from_a_file(run, capsys, tmp_path):
    (tmp_path / "my.csv").write_text("text,label\n" + "The sun is hot,warm\nThe ice is cold,cold\n" * 8)
    run("classify", "my.csv", "--epochs", "1", "--out", "out")
    found = capsys.readouterr().out.splitlines()
    assert len(found) == 2
    assert all(re.fullmatch(r"(warm|cold) \(\d\.\d\d\)  .*\.", line) for line in found)


@pytest.mark.slow
def test_answer_trains_and_then_uses_that_model(run, capsys):
    run("answer")
    first = capsys.readouterr().out
    assert [line.split("?")[0] for line in first.splitlines()] == ["Who waits", "Where"]
    run("answer", "runs/example-answer/run/model")
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_generate_trains_and_then_uses_that_model(run, capsys):
    run("generate")
    first = capsys.readouterr().out
    assert [line.partition(" ")[0] for line in first.splitlines()][::4] == ["best", "token"]
    run("generate", "runs/example-generate/run/model")
    assert capsys.readouterr().out == first
