"""`minilm predict` and `minilm finetune` as a user types them: files in, files out, one line for every mistake."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.commands import minilm, rows_of

from minilm.errors import UsageError
from minilm.infer.api import load
from minilm.tasks.saved import read_task, write_task
from minilm.tasks.seq2seq.settings import Seq2SeqSettings
from minilm.tasks.squad.read import Question
from minilm.tasks.squad.settings import SquadSettings
from minilm.tasks.text.glue import glue_text_task
from minilm.tasks.text.rows import read_text_rows
from minilm.tasks.text.settings import TextSettings
from minilm.tasks.tokens.settings import TokensSettings


def piped(data: bytes) -> io.TextIOWrapper:
    """Standard input that holds `data`."""
    return io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)))


@pytest.fixture(scope="module")
def trained_once(new_tiny_task, tmp_path_factory):
    """A classifier from one short run, through the command line."""
    task = new_tiny_task(tmp_path_factory.mktemp("classifier"))
    assert minilm("finetune", task.recipe(steps=6)) == 0
    return task


@pytest.fixture(scope="module")
def reader_once(new_tiny_task, tmp_path_factory):
    """A span model from one short run."""
    task = new_tiny_task(tmp_path_factory.mktemp("reader"))
    context = " ".join(f"word{number}" for number in range(20, 30))
    questions = [
        {
            "id": f"q{number}",
            "title": "t",
            "context": context,
            "question": f"word{number}",
            "answers": [{"text": f"word{number}", "answer_start": context.index(f"word{number}")}],
            "is_impossible": False,
        }
        for number in range(20, 30)
    ]
    questions.append({**questions[0], "id": "q0", "answers": [], "is_impossible": True})
    file = task.folder / "squad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in questions))
    recipe = json.loads(task.recipe(steps=6).read_text())
    recipe["task"] = {
        "kind": "squad",
        "name": "squad",
        "train": [str(file)],
        "dev": [str(file)],
        "max_tokens": 24,
        "stride": 4,
    }
    path = task.folder / "squad.json.yaml"
    path.write_text(json.dumps(recipe))
    assert minilm("finetune", path) == 0
    return task


def copied(task, folder: Path):
    """The same task and run in another folder, for one test to change."""
    shutil.copytree(task.folder, folder, dirs_exist_ok=True)
    return type(task)(folder)


@pytest.fixture
def trained(trained_once, tmp_path):
    """A classifier and its files, in a folder of the test."""
    return copied(trained_once, tmp_path)


@pytest.fixture
def reader(reader_once, tmp_path):
    """A span model and its files, in a folder of the test."""
    return copied(reader_once, tmp_path)


@pytest.mark.slow
def test_predictions_are_those_of_the_run_and_score_the_same(trained, capsys):
    out = trained.folder / "predictions.jsonl"
    capsys.readouterr()
    assert (
        minilm("predict", trained.folder / "run/model", "--input", trained.folder / "dev.jsonl", "--output", out) == 0
    )
    assert f"30 predictions are in {out}" in capsys.readouterr().out
    written = rows_of(trained.folder / "run" / "predictions" / "dev.jsonl")
    assert [(row["id"], row["prediction"]) for row in rows_of(out)] == [
        (row["id"], row["prediction"]) for row in written
    ]


def test_a_pipe_gives_what_files_give(trained, capsys, monkeypatch):
    source, out = trained.folder / "dev.jsonl", trained.folder / "out.jsonl"
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", out) == 0
    monkeypatch.setattr("sys.stdin", piped(source.read_bytes()))
    capsys.readouterr()
    assert minilm("predict", trained.folder / "run/model", "--input", "-", "--output", "-") == 0
    assert capsys.readouterr().out == out.read_text(encoding="utf-8")


def test_a_pipe_with_a_broken_row_says_which(trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", piped(b'{"text": "word1"}\n{"text"\n'))
    assert minilm("predict", trained.folder / "run/model", "--input", "-", "--output", "-") == 3
    captured = capsys.readouterr()
    assert "standard input:2: " in captured.err
    assert not captured.out


def test_a_path_that_looks_like_the_sign_for_a_pipe_is_a_file(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.folder)
    assert minilm("predict", "run/model", "--input", "dev.jsonl", "--output", "./-") == 2
    assert "--output is -; expected a name that ends in .jsonl" in capsys.readouterr().err
    assert minilm("predict", "run/model", "--input", "./-", "--output", "out.jsonl") == 2
    assert "-: unknown kind of file" in capsys.readouterr().err


def test_the_input_is_never_overwritten(trained, capsys):
    source = trained.folder / "dev.jsonl"
    before = source.read_bytes()
    same = trained.folder / "run" / ".." / "dev.jsonl"
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", same) == 2
    assert "--input and --output are the same file" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_empty_texts_are_reported_and_an_empty_file_is_an_error(trained, caplog, capsys):
    source, out = trained.folder / "some.jsonl", trained.folder / "out.jsonl"
    source.write_text('{"text": "word1"}\n{"text": " "}\n')
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", out) == 0
    assert f"1 of 2 texts are empty (first: {source}:2)" in caplog.messages
    source.write_text("\n")
    out.unlink()
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", out) == 3
    assert f"{source}: found no row, expected at least one" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_empty_questions_are_reported(reader, caplog):
    source, out = reader.folder / "some.jsonl", reader.folder / "out.jsonl"
    source.write_text('{"question": "", "context": "word1"}\n{"question": "word1", "context": ""}\n')
    assert minilm("predict", reader.folder / "run/model", "--input", source, "--output", out) == 0
    assert f"2 of 2 questions or their contexts are empty (first: {source}:1)" in caplog.messages


def test_rows_are_read_once(trained, opens):
    source, out = trained.folder / "dev.jsonl", trained.folder / "out.jsonl"
    opens.clear()
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", out) == 0
    assert opens[source] == 1


def test_questions_are_read_once(reader, opens):
    source, out = reader.folder / "official.json", reader.folder / "out.jsonl"
    paragraph = {"context": "word1 word2", "qas": [{"id": "q", "question": "word1"}]}
    source.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}))
    for file in (source, reader.folder / "squad.jsonl"):
        opens.clear()
        assert minilm("predict", reader.folder / "run/model", "--input", file, "--output", out) == 0
        assert opens[file] == 1


@pytest.mark.slow
def test_training_files_are_read_once_also_for_their_labels(tiny_task, opens, monkeypatch):
    monkeypatch.setattr("minilm.finetune.run.sha256_file", lambda path: "0")  # hashed for resuming, not parsed
    recipe = tiny_task.recipe(steps=1)
    assert "labels" not in json.loads(recipe.read_text())["task"]
    opens.clear()
    assert minilm("finetune", recipe) == 0
    assert [opens[tiny_task.folder / name] for name in ("train.jsonl", "dev.jsonl")] == [1, 1]


def test_a_compressed_pipe_is_read(trained, monkeypatch):
    packed = gzip.compress(b'{"text": "word1"}\n{"text": "word2"}\n')
    monkeypatch.setattr("sys.stdin", piped(packed))
    out = trained.folder / "out.jsonl"
    assert minilm("predict", trained.folder / "run/model", "--input", "-", "--output", out) == 0
    assert len(rows_of(out)) == 2


def test_a_closed_stream_is_rejected(trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert minilm("predict", trained.folder / "run/model", "--input", "-", "--output", "o.jsonl") == 2
    assert "--input is -, but that stream is closed" in capsys.readouterr().err


def test_an_id_that_is_not_a_character_is_written_unchanged(trained):
    source, out = trained.folder / "odd.jsonl", trained.folder / "out.jsonl"
    source.write_text('{"id": "\\ud800", "text": "word1"}\n')
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", out) == 0
    assert '{"id": "\\ud800", ' in out.read_text()


@pytest.mark.slow
def test_truncated_texts_are_counted_over_the_whole_file(trained, caplog):
    source = trained.folder / "long.jsonl"
    lengths = [2] * 1500 + [200] + [2] * 1000 + [200] * 2
    source.write_text("".join(json.dumps({"text": "word1 " * length}) + "\n" for length in lengths))
    arguments = ("--input", source, "--output", trained.folder / "out.jsonl")
    assert minilm("predict", trained.folder / "run/model", *arguments) == 0
    limit = read_task(trained.folder / "run/model").max_tokens
    reported = f"3 of 2503 texts were longer than {limit} tokens and were truncated (first: {source}:1501)"
    assert [message for message in caplog.messages if "were truncated" in message] == [reported]


def test_truncated_questions_are_counted_over_the_whole_file(reader, caplog):
    source = reader.folder / "asked.jsonl"
    sizes = [1] * 70 + [80] + [1] * 70 + [90]
    rows = [{"id": str(n), "question": "word1 " * size, "context": "word2"} for n, size in enumerate(sizes)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = reader.folder / "run/model"
    write_task(model, replace(read_task(model), max_question_tokens=12))
    caplog.clear()
    assert minilm("predict", model, "--input", source, "--output", reader.folder / "out.jsonl") == 0
    expected = f"2 of 142 questions were truncated to 12 tokens (first: {source}:71)"
    assert [message for message in caplog.messages if "were truncated" in message] == [expected]


def test_compressed_csv_with_other_columns_is_read(trained):
    source = trained.folder / "texts.csv.gz"
    with gzip.open(source, "wt") as file:
        file.write('number,body\n7,"word1, word2"\n9,word3\n')
    out = trained.folder / "out.jsonl"
    arguments = ("--input", source, "--output", out, "--text", "body", "--id", "number")
    assert minilm("predict", trained.folder / "run/model", *arguments) == 0
    assert [row["id"] for row in rows_of(out)] == ["7", "9"]
    assert all(row["prediction"] in trained.labels for row in rows_of(out))


@pytest.mark.parametrize(
    ("task", "name", "text", "expected"),
    [
        ("cola", "dev.tsv", "gj04\t1\t\tword1\ngj04\t0\t*\tword2\n", ["0", "1"]),
        ("cola", "test.tsv", "index\tsentence\n5\tword1\n", ["5"]),
        ("mrpc", "dev.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t8\t9\tword1\tword2\n", ["0"]),
        ("mrpc", "dev.jsonl", '{"idx": 7, "sentence1": "word1", "sentence2": "word2"}\n', ["7"]),
        ("qqp", "test.tsv", "id\tquestion1\tquestion2\n3\tword1\tword2\n", ["3"]),
        ("rte", "dev.tsv", "index\tsentence1\tsentence2\n4\tword1\tword2\n4\tword3\tword1\n", ["0", "1"]),
        ("qqp", "rows.tsv", "id\tquestion1\tquestion2\n3\tword1\n5\tword1\tword2\n", ["5"]),
        ("cola", "rows.tsv", "index\tsentence\n\n5\tword1\tmore\n6\tword1\n6\tword2\n", None),
    ],
)
def test_published_files_of_a_glue_task_are_read_as_they_are(trained, task, name, text, expected):
    source, out = trained.folder / name, trained.folder / "out.jsonl"
    source.write_text(text)
    arguments = ("--task", task, "--input", source, "--output", out)
    assert minilm("predict", trained.folder / "run/model", *arguments) == 0
    labelled = read_text_rows(source, glue_text_task(task), labelled=False)  # as training and scoring do
    assert [row["id"] for row in rows_of(out)] == [row.id for row in labelled]
    assert expected is None or [row["id"] for row in rows_of(out)] == expected


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ('"text": "word2"', "column 'id' is missing or null, expected a text or a whole number"),
        ('"id": null, "text": "word2"', "column 'id' is missing or null"),
        ('"id": ["x"], "text": "word2"', "column 'id' is ['x'], expected a text or a whole number"),
        ('"id": "1", "text": "word2"', "column 'id': id '1' is already at"),
    ],
)
def test_rows_with_unusable_ids_are_numbered(trained, second, problem, caplog, capsys):
    source, out = trained.folder / "mixed.jsonl", trained.folder / "out.jsonl"
    source.write_text('{"id": "1", "text": "word1"}\n{' + second + "}\n")
    arguments = (trained.folder / "run/model", "--input", source, "--output", out)
    assert minilm("predict", *arguments) == 0
    assert f"{source}:2: {problem}" in caplog.text
    assert "the rows of this file are numbered from 0 instead" in caplog.text
    assert [row["id"] for row in rows_of(out)] == ["0", "1"]
    out.unlink()
    assert minilm("predict", *arguments, "--id", "id") == 3
    assert f"{source}:2: " in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


@pytest.mark.slow
def test_a_bad_row_is_named_and_nothing_is_written(trained, capsys):
    source, out = trained.folder / "bad.jsonl", trained.folder / "out.jsonl"
    source.write_text('{"text": "word1"}\n{"text": 7}\n')
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", out) == 3
    assert f"error: {source}:2: text is a whole number, expected a string" in capsys.readouterr().err
    source.write_text('{"text": "word1"}\n{"body": "word2"}\n')
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", out) == 3
    assert (
        f"{source}:2: no field 'text', found 'body'; correct the row, or name its fields "
        "with --text, --text-pair or --id" in capsys.readouterr().err
    )
    arguments = ("--input", trained.folder / "dev.jsonl", "--output", out, "--id", "nr")
    assert minilm("predict", trained.folder / "run/model", *arguments) == 3
    assert "dev.jsonl:1: no field 'nr', found" in capsys.readouterr().err
    source = trained.folder / "bad.tsv"
    source.write_text("id\ttext\n1\tword1\tword2\n")
    assert minilm("predict", trained.folder / "run/model", "--input", source, "--output", out) == 3
    assert f"{source}:2: 3 columns, expected 2 (a text may contain a tab)" in capsys.readouterr().err
    assert not out.exists()
    assert not [path for path in trained.folder.iterdir() if path.name.startswith(".out")]


def test_options_of_the_other_kind_of_model_are_rejected(trained, capsys):
    arguments = (trained.folder / "run/model", "--input", trained.folder / "dev.jsonl", "--output", "out.jsonl")
    assert minilm("predict", *arguments, "--postprocess", "classic") == 2
    assert "--null-threshold and --postprocess apply to questions, but this model labels" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_without_the_head_is_rejected(trained, capsys):
    arguments = ("--input", trained.folder / "dev.jsonl", "--output", trained.folder / "out.jsonl")
    assert minilm("predict", trained.folder / "run", *arguments) == 3
    assert f"; use {trained.folder / 'run/model'}\n" in capsys.readouterr().err
    assert minilm("predict", trained.model, *arguments) == 2
    line = capsys.readouterr().err
    assert "it has no trained head; train a model with minilm finetune" in line
    assert "for vectors use encode, or minilm embed" in line
    assert minilm("predict", trained.folder / "run/model", "--task", "squad", *arguments) == 2
    assert "cannot answer questions: its classification head can classify texts" in capsys.readouterr().err
    assert minilm("predict", trained.folder / "run/model", "--task", "colla", *arguments) == 2
    assert "--task is 'colla'" in capsys.readouterr().err


def test_answers_are_those_of_the_run(reader):
    model, out = reader.folder / "run" / "model", reader.folder / "answers.jsonl"
    assert minilm("predict", model, "--input", reader.folder / "squad.jsonl", "--output", out) == 0
    written = rows_of(reader.folder / "run" / "predictions" / "squad.jsonl")
    for found, expected in zip(rows_of(out), written, strict=True):
        assert (found["id"], found["prediction"]) == (expected["id"], expected["prediction"])
        assert found["null_odds"] == pytest.approx(expected["null_odds"], abs=1e-4)
    context = rows_of(reader.folder / "squad.jsonl")[0]["context"]
    answer = load(model).answer("word21", context)
    assert answer.text == ("" if answer.start is None else context[answer.start : answer.end])
    assert load(model).task.stride == 4
    with pytest.raises(UsageError, match=r"question 1: found tuple; answers expects minilm\.Question"):
        load(model).answers([Question(id="0", question="word21", context=context), ("word21", context)])


@pytest.mark.slow
def test_answers_in_a_table_score_as_in_json_lines(reader, capsys):
    source, numbers = reader.folder / "squad.jsonl", []
    for name in ("answers.jsonl", "answers.csv", "answers.parquet"):
        out = reader.folder / name
        assert minilm("predict", reader.folder / "run/model", "--input", source, "--output", out) == 0
        capsys.readouterr()
        words = ("--predictions", out, "--references", source, "--na-prob", out, "--na-prob-thresh", 0)
        assert minilm("score", "squad", *words) == 0
        numbers.append(capsys.readouterr().out)
    assert numbers[0] == numbers[1] == numbers[2]


@pytest.mark.slow
def test_answers_follow_other_settings_and_ids(reader, capsys):
    model, source, out = reader.folder / "run" / "model", reader.folder / "squad.jsonl", reader.folder / "a.jsonl"
    rows = [{**row, "nr": number} for number, row in enumerate(rows_of(source))]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for threshold, has_answers in ((-1e9, False), (1e9, True)):
        words = ("--null-threshold", threshold, "--postprocess", "classic", "--id", "nr")
        assert minilm("predict", model, "--input", source, "--output", out, *words) == 0
        assert [bool(row["prediction"]) for row in rows_of(out)] == [has_answers] * len(rows)
        assert [row["id"] for row in rows_of(out)] == [str(row["nr"]) for row in rows]
    for flag in ("--text", "--text-pair"):
        assert minilm("predict", model, "--input", source, "--output", out, flag, "context") == 2
        assert "--text and --text-pair apply to texts, but this model answers questions" in capsys.readouterr().err


def test_the_report_lists_all_numbers_and_draws_the_scores(reader):
    """Counts and thresholds are in the table, not in the chart."""
    page = (reader.folder / "run" / "report.html").read_text()
    assert "<td>HasAns_total</td>" in page
    assert "HasAns_f1</text>" in page
    assert not [name for name in ("HasAns_total", "best_f1_thresh", "best_f1") if f"{name}</text>" in page]


@pytest.mark.slow
def test_one_seed_has_no_deviation(tiny_task, capsys):
    assert minilm("finetune", tiny_task.recipe(steps=1)) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2] == "-"


def test_a_recipe_of_the_other_command_is_rejected(tiny_task, capsys):
    assert minilm("distill", tiny_task.recipe()) == 2
    assert "kind: this is a recipe for `minilm finetune`: run it with that command" in capsys.readouterr().err
    assert minilm("finetune", "distill/tiny-embedded") == 2
    assert "this is a recipe for `minilm distill`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "task",
    [
        TextSettings(name="x", max_tokens=9, text="a", text_pair="b", labels=["low", "high"]),
        SquadSettings(name="squad1", version="1.1", null_threshold=-1.5, stride=7),
        Seq2SeqSettings(name="qg", source=["p", "q"], mask_way="v1", target_mask_prob=0.5),
        TokensSettings(name="ner", words="w", labels=["O", "B-X"], scheme="IOBES"),
    ],
)
def test_what_a_model_was_trained_for_survives(tmp_path, task):
    write_task(tmp_path, task)
    assert read_task(tmp_path) == task
    assert read_task(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("squad", {"stride": "4"}, "stride is '4'; expected a whole number"),
        ("squad", {"stride": True}, "stride is True; expected a whole number"),
        ("squad", {"stride": 0}, "stride is 0; expected 1 or more"),
        ("squad", {"postprocess": "old"}, "postprocess is 'old'; expected 'exact' or 'classic'"),
        ("text", {"text_pair": 1}, "text_pair is 1; expected a text or None"),
        ("text", {"labels": ["a", 1]}, "labels is ['a', 1]; expected a list, each item a text"),
        ("text", {"labels": ["a"], "regression": True}, "found labels with regression true"),
        ("text", {"name": None}, "name is None; expected a text"),
        ("text", {"stride": 4}, "unknown key 'stride'; expected kind, name, max_tokens"),
        ("seq2seq", {"source": "src"}, "source is 'src'; expected a list"),
        ("seq2seq", {"source": []}, "source is []; expected 1 or more items"),
        ("seq2seq", {"label_smoothing": 1}, "label_smoothing is 1; expected less than 1"),
        ("seq2seq", {"new": 1}, "was the model saved by a newer minilm? Upgrade it"),
        ("span", {}, "kind is 'span'; expected 'text', 'tokens', 'squad', 'seq2seq'"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, kind, values, message):
    from minilm.errors import DataError

    (tmp_path / "task.json").write_text(json.dumps({"kind": kind, "name": "x", **values}))
    with pytest.raises(DataError) as caught:
        read_task(tmp_path)
    assert message in str(caught.value)
