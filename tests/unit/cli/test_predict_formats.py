"""`minilm predict`: the names of files say their formats, and what it writes is what `minilm score` reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from minilm.cli import app
from minilm.infer.api import load
from minilm.tasks.saved import write_task
from minilm.tasks.text.settings import TextSettings

LABELS = ("bad", "good, or so", "score")
TEXTS = ["word1 word2", "word9", "", "word4 word7 word1"]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


@pytest.fixture(scope="module")
def models(new_tiny_task, tmp_path_factory) -> dict[str, Path]:
    """Classifiers with random weights by kind: one label, several labels, a number."""
    import torch

    from minilm.model.checkpoint import read_model, write_model
    from minilm.model.heads import Model, new_head
    from minilm.text.tokenizer import Tokenizer

    task = new_tiny_task(tmp_path_factory.mktemp("models"))
    encoder = read_model(task.model).encoder
    found = {}
    for kind, labels, problem in (
        ("one", LABELS, "single_label_classification"),
        ("several", LABELS, "multi_label_classification"),
        ("number", ("LABEL_0",), "regression"),
    ):
        draw = torch.Generator().manual_seed(7)
        head = new_head("classification", encoder.config, num_labels=len(labels), generator=draw)
        found[kind] = task.folder / kind
        found[kind].mkdir()
        write_model(Model(encoder, head), found[kind], head="classification", labels=labels, problem=problem)
        Tokenizer.load(task.model).save(found[kind])
    return found


@pytest.fixture
def minilm(tmp_path, monkeypatch, capsys):
    """`minilm(words, piped=b"")`: exit code, standard output, standard error, in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, piped: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(piped))))
        with pytest.raises(SystemExit) as caught:
            app.main([str(word) for word in words])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


def lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("kind", ["one", "several", "number"])
def test_every_format_holds_all_numbers_and_is_scored_as_it_is(minilm, models, kind, suffix):
    """Against references that are the predictions themselves, every score is 100."""
    from minilm.files.rows import read_rows

    Path("in.txt").write_text(lines(TEXTS))
    name = f"out{suffix}"
    code, said, _ = minilm("predict", models[kind], "--input", "in.txt", "--output", name)
    assert (code, said) == (0, f"4 predictions are in {name}\n")
    model = load(models[kind])
    found = model.classify(TEXTS)
    rows = [row.values for row in read_rows(Path(name))]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    for row, one in zip(rows, found, strict=True):
        scores = row.get("scores") or {label: row[f"scores.{label}"] for label in model.labels}
        expected = dict(zip(model.labels, one.probabilities, strict=True))
        assert {label: float(score) for label, score in scores.items()} == pytest.approx(expected, abs=1e-6)
        if kind == "one":
            assert float(row["score"]) == pytest.approx(one.score, abs=1e-6)
    values = {"one": [one.label for one in found], "several": [list(one.labels) for one in found]}
    gold = values.get(kind) or [one.score for one in found]
    Path("gold.jsonl").write_text(lines([json.dumps({"id": n, "label": value}) for n, value in enumerate(gold)]))
    flags = {"one": [], "several": ["--multi-label"], "number": ["--regression"]}[kind]
    code, out, error = minilm("score", "text", "--predictions", name, "--references", "gold.jsonl", "--json", *flags)
    assert (code, error) == (0, "")
    assert json.loads(out)["pearson" if kind == "number" else "accuracy"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("input_format", "data"),
    [
        ("text", lines(TEXTS)),
        ("csv", "text\n" + "".join(f'"{text}"\n' for text in TEXTS)),
        ("tsv", "text\tx\n" + "".join(f"{text}\ty\n" for text in TEXTS)),
        ("jsonl", lines([json.dumps({"text": text}) for text in TEXTS])),
    ],
)
def test_a_pipe_in_any_format_gives_what_a_file_gives(minilm, models, input_format, data):
    Path("in.txt").write_text(lines(TEXTS))
    minilm("predict", models["one"], "--input", "in.txt", "--output", "out.jsonl")
    words = ["--input", "-", "--input-format", input_format, "--output", "-"]
    code, out, _ = minilm("predict", models["one"], *words, piped=data.encode())
    assert (code, out) == (0, Path("out.jsonl").read_text())


def test_lines_of_text_are_numbered_also_empty_ones(minilm, models, caplog):
    Path("in.txt").write_text("word1\n\nword2")
    assert minilm("predict", models["one"], "--input", "in.txt", "--output", "out.jsonl")[0] == 0
    assert [json.loads(line)["id"] for line in Path("out.jsonl").read_text().splitlines()] == ["0", "1", "2"]
    assert "1 of 3 texts are empty (first: in.txt:2)" in caplog.messages


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--input", "in.txt", "--output", "out.xlsx"], 2,
         "--output is out.xlsx; expected a name that ends in .jsonl, .csv, .tsv or .parquet"),
        (["--input", "in.txt", "--output", "out.jsonl", "--text", "body"], 2,
         "--text body: in.txt has no named columns; remove --text"),
        (["--input", "-", "--input-format", "text", "--output", "-", "--id", "n"], 2,
         "--id n: standard input has no named columns; remove --id"),
        (["--input", "in.txt", "--input-format", "csv", "--output", "-"], 2,
         "--input-format csv is for standard input, -; in.txt has the format of its name: remove it"),
        (["--input", "in.pdf", "--output", "-"], 2,
         "in.pdf: unknown kind of file; expected .tsv, .jsonl, .json, .csv, .parquet, .txt, each (but .parquet) "
         "optionally with .gz"),
        (["--input", "in.txt", "--output", "-", "--task", "rte"], 2,
         "in.txt has one text per line, expected two: 'sentence1' and 'sentence2'; give rows (.jsonl, .csv, .tsv or "
         ".parquet) with these columns"),
        (["--input", "-", "--output", "-"], 3,
         "standard input is a Git LFS pointer to a file of 123 bytes, not the file: run 'git lfs pull' in its "
         "repository, or download the file again"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_error(minilm, models, words, code, message):
    Path("in.txt").write_text("word1\n")
    assert minilm("predict", models["one"], *words, piped=POINTER.encode()) == (code, "", f"error: {message}\n")
    assert [path.name for path in Path().iterdir()] == ["in.txt"]


def test_an_unknown_output_is_rejected_before_the_model_is_read(minilm):
    code, _, error = minilm("predict", "no-model", "--input", "no-file.txt", "--output", "out.json")
    assert (code, error[:29]) == (2, "error: --output is out.json; ")


def test_a_file_of_lines_ignores_the_id_column_of_training(minilm, models, tmp_path):
    write_task(models["one"], TextSettings(name="own", text="body", id="number"))
    try:
        Path("in.txt").write_text("word1\n")
        assert minilm("predict", models["one"], "--input", "in.txt", "--output", "-")[0] == 0
    finally:
        (models["one"] / "task.json").unlink()
