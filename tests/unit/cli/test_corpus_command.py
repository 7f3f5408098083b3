"""`minilm corpus build`: several files after one --input, a table at the end, plain progress in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from minilm.cli import corpus
from minilm.cli.app import main
from minilm.corpus.shards import Shards
from minilm.errors import UsageError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, "the", "cat", "sat"]))
    return path


@pytest.mark.parametrize("flag", [["--input"], []])
def test_all_files_are_read_with_and_without_a_flag(vocab, tmp_path, flag):
    for name, text in (("a", "the cat"), ("b", "cat sat the"), ("c", "sat")):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"body": "{text}"}}\nbroken\n')
    files = [str(tmp_path / f"{name}.jsonl") for name in "abc"]
    out = tmp_path / "corpus"
    options = ["--tokenizer", str(vocab), "--out", str(out), "--field", "body", "--max-tokens", "16"]
    options += ["--max-bad-rows", "1"]
    result = CliRunner().invoke(corpus.app, ["build", *flag, *files, *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert [ids.tolist() for ids in (Shards.open(out)[number] for number in range(3))] == [
        [2, 5, 6, 3],
        [2, 6, 7, 5, 3],
        [2, 7, 3],
    ]
    for line in (
        "files        3",
        "documents    3 of at most 16 tokens",
        "mean         4.0 tokens per document",
    ):
        assert line in result.stdout
    assert "bad rows     3 skipped" in result.stdout
    assert f"{files[0]}:2: broken JSON" in result.stdout


@pytest.mark.parametrize(
    ("input_format", "data"),
    [
        ([], '{"text": "the cat"}\n{"text": "sat"}\nbroken\n'),
        (["--input-format", "text"], "the cat\nsat\n"),
        (["--input-format", "csv"], 'n,text\n1,"the cat"\n2,sat\n3\n'),
        (["--input-format", "tsv"], "n\ttext\n1\tthe cat\n2\tsat\n3\n"),
    ],
)
def test_texts_are_read_from_standard_input(vocab, tmp_path, monkeypatch, capsys, input_format, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data.encode()))))
    out = tmp_path / "corpus"
    options = ["--tokenizer", str(vocab), "--out", str(out), "--max-bad-rows", "1", *input_format]
    with pytest.raises(SystemExit) as caught:
        main(["corpus", "build", "--input", "-", *options])
    assert caught.value.code == 0
    assert [ids.tolist() for ids in (Shards.open(out)[number] for number in range(2))] == [[2, 5, 6, 3], [2, 7, 3]]
    said = capsys.readouterr()
    assert ("bad rows     0 skipped" in said.out) == (input_format == ["--input-format", "text"])
    assert "/" not in said.err  # no total, which nobody knows


def test_standard_input_is_read_once(vocab, tmp_path, capsys):
    options = ["--tokenizer", str(vocab), "--out", str(tmp_path / "corpus")]
    with pytest.raises(SystemExit) as caught:
        main(["corpus", "build", "--input", "-", "-", *options])
    assert caught.value.code == 2
    assert "--input and FILE are both -, but standard input can be read only once" in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_tokenizer_is_found_by_its_name(real_model_dir, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\n")
    options = ["--tokenizer", "embedded", "--out", str(tmp_path / "corpus"), "--max-tokens", "16"]
    CliRunner().invoke(corpus.app, ["build", "--input", str(tmp_path / "a.txt"), *options], catch_exceptions=False)
    assert Shards.open(tmp_path / "corpus")[0].tolist() == [101, 1996, 4937, 2938, 102]


def test_library_errors_reach_the_caller(vocab, tmp_path):
    options = ["--tokenizer", str(vocab), "--out", str(tmp_path / "corpus")]
    result = CliRunner().invoke(corpus.app, ["build", "--input", str(tmp_path / "gone.txt"), *options])
    assert isinstance(result.exception, UsageError)


def test_no_file_is_one_clear_error(vocab, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["corpus", "build", "--tokenizer", str(vocab), "--out", str(tmp_path / "corpus")])
    assert capsys.readouterr().err == "error: no input files; give at least one\n"
