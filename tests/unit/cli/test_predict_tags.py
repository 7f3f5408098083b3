"""`minilm predict` and `tag` of a model that tags words: characters and words of entities, of texts and of words."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from tests.commands import minilm, rows_of

import minilm as package
from minilm.errors import UsageError
from minilm.infer.api import load


@pytest.fixture(scope="module")
def trained(new_tiny_task, tmp_path_factory):
    """A model that tags words from one short run, through the command line."""
    task = new_tiny_task(tmp_path_factory.mktemp("tagger"))
    assert minilm("finetune", task.tokens_recipe(steps=30, eval_every=30)) == 0
    return task


@pytest.fixture
def predict(trained, tmp_path):
    """`predict(name, content, *flags)`: the exit code, and the rows that were written."""

    def start(name: str, content: str, *flags: object) -> tuple[int, list[dict]]:
        source, out = tmp_path / name, tmp_path / "out.jsonl"
        source.write_text(content)
        code = minilm("predict", trained.folder / "run" / "model", "--input", source, "--output", out, *flags)
        return code, rows_of(out) if out.exists() else []

    return start


@pytest.mark.slow
def test_predictions_for_a_column_file_are_those_of_the_run(trained, predict):
    expected = rows_of(trained.folder / "run" / "predictions" / "dev.jsonl")
    code, rows = predict("dev.conll", (trained.folder / "dev.conll").read_text())
    assert code == 0
    for row, other in zip(rows, expected, strict=True):
        assert (row["id"], row["tags"]) == (other["id"], other["tags"])
        for one, same in zip(row["prediction"], other["prediction"], strict=True):
            assert one.pop("score") == pytest.approx(same.pop("score"), abs=1e-5)
            assert one == same
    words = [line.split()[0] if line else "" for line in (trained.folder / "dev.conll").read_text().split("\n")]
    code, rows = predict("words.bio", "\n".join(words))
    assert (code, [row["tags"] for row in rows]) == (0, [row["tags"] for row in expected])


def test_texts_have_characters_and_lists_of_words_also_words(predict):
    text = "word2 word0, word1 word4."
    lines = [{"id": "a", "text": text}, {"id": "b", "tokens": ["word2", "word0", "word1s"]}]
    code, [first, second] = predict("rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert code == 0
    assert (first["id"], second["id"]) == ("a", "b")
    assert ("PER", "word0") in [(one["label"], one["text"]) for one in first["prediction"]]
    assert all(text[one["start"] : one["end"]] == one["text"] for one in first["prediction"])
    assert "tags" not in first
    [entity] = [one for one in second["prediction"] if one["first_word"] == 1]
    assert "word2 word0 word1s"[entity["start"] : entity["end"]] == entity["text"]
    assert second["tags"][entity["first_word"]] == f"B-{entity['label']}"
    assert len(second["tags"]) == 3


def test_a_text_file_holds_a_text_per_line(predict):
    code, rows = predict("texts.txt", "word2 word0\n\nword0 O\n")
    assert (code, [row["id"] for row in rows], rows[1]["prediction"]) == (0, ["0", "1", "2"], [])
    assert rows[:2] == predict("rows.jsonl", '{"text": "word2 word0"}\n{"text": ""}\n')[1]


def test_a_csv_file_holds_texts_in_a_column_of_any_name(predict):
    code, rows = predict("rows.csv", "number,body\n7,word0 word1\n", "--text", "body", "--id", "number")
    assert (code, [row["id"] for row in rows]) == (0, ["7"])


def test_a_pipe_gives_what_a_file_gives(trained, predict, monkeypatch, capsys):
    line = '{"text": "word0 word1"}\n'
    _, rows = predict("rows.jsonl", line)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(line.encode()))))
    capsys.readouterr()
    assert minilm("predict", trained.folder / "run" / "model", "--input", "-", "--output", "-") == 0
    assert json.loads(capsys.readouterr().out) == rows[0]


def test_what_is_not_read_is_reported_once(predict, caplog, tmp_path):
    lines = [{"words": []}, {"words": ["word0"] * 40}, {"words": ["", "word1"]}, {"words": ["word0"] * 31}]
    code, rows = predict("rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    source = tmp_path / "rows.jsonl"
    assert (code, rows[0]["prediction"], rows[0]["tags"]) == (0, [], [])
    assert rows[1]["tags"][30:] == ["O"] * 10
    assert rows[2]["tags"][0] == "O"
    assert f"1 of 4 sentences have no words (first: {source}:1)" in caplog.messages
    lost = "words were beyond the first 32 tokens of their text; they are tagged O"
    assert [message for message in caplog.messages if "beyond" in message] == [f"11 of 73 {lost} (first: {source}:2)"]
    dropped = "words consist of characters that the tokenizer drops; they are tagged O"
    assert f"1 of 73 {dropped} (first: {source}:3)" in caplog.messages


@pytest.mark.parametrize(
    ("name", "content", "flags", "code", "message"),
    [
        (
            "a.jsonl",
            '{"body": "x"}\n',
            (),
            3,
            "a.jsonl:1: no field 'tokens' or 'words' or 'text', found 'body'; correct the",
        ),
        ("a.jsonl", '{"text": 3}\n', (), 3, "a.jsonl:1: field 'text' is a whole number, expected a text or a list"),
        ("a.bio", "The river is wide .\n", (), 3, "a.bio:1: found tag '.', expected O, B-TYPE or I-TYPE"),
        ("a.txt", "word0\n", ("--id", "n"), 2, "a.txt has no named columns; remove --id"),
        (
            "a.iob",
            "word0\n",
            (),
            2,
            "a.iob: unknown kind of file; expected .conll, .bio, .txt, .tsv, .jsonl, .json, .csv, ",
        ),
        ("a.conll", "word0\n", ("--text", "n"), 2, "a.conll has no named columns; remove --text"),
        (
            "a.txt",
            "word0 B-X\n\nx O\n",
            (),
            3,
            "a.txt: every line ends in a tag, as in a column file, but .txt holds one",
        ),
        (
            "a.jsonl",
            '{"text": "x"}\n',
            ("--text-pair", "b"),
            2,
            "apply to pairs and questions, but this model tags words",
        ),
        ("a.jsonl", '{"text": "x"}\n', ("--task", "text"), 2, "cannot classify texts: its tokens head can tag words"),
    ],
)
def test_mistakes_are_one_line(predict, capsys, name, content, flags, code, message):
    assert predict(name, content, *flags) == (code, [])
    assert message in capsys.readouterr().err


def test_a_model_without_the_head_is_rejected(trained, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    flags = ("--task", "tokens", "--input", tmp_path / "a.jsonl", "--output", tmp_path / "o.jsonl")
    assert minilm("predict", trained.model, *flags) == 2
    assert "cannot tag words: it has no trained head; train a model with minilm finetune and the task tokens" in (
        capsys.readouterr().err
    )


def test_tag_reads_columns_of_other_libraries_and_rejects_what_is_no_list(trained):
    model = load(trained.folder / "run" / "model")
    text = "word2 word0"
    [found] = model.tag([text])
    assert isinstance(found, package.Tagged)
    assert isinstance(found.entities[0], package.Entity)
    assert model.tag(np.array([text])) == [found]
    assert model.tag(iter([("word2", "word0")]))[0].tags == found.tags
    assert model.tag([]) == []
    assert model.tag([""])[0].entities == ()
    with pytest.raises(UsageError, match=r"tag expects a list of texts, not one string; write tag\(\[text\]\)"):
        model.tag(text)
    with pytest.raises(UsageError, match="text 0: found int; tag expects texts or token lists"):
        model.tag([3])
    with pytest.raises(UsageError, match="cannot classify texts: its tokens head can tag words"):
        model.classify([text])


def test_the_representations_say_what_was_found_and_what_can_be(trained):
    model = load(trained.folder / "run" / "model")
    types = dict.fromkeys(name[2:] for name in model.labels if name != "O")
    assert f"tags words as {' | '.join(types)}, up to" in repr(model)
    [found] = model.tag(["word2 word0"])
    shown = [f"{one.label} {one.text!r}" for one in found.entities]
    assert repr(found) == f"<Tagged 'word2 word0': {', '.join(shown)}>"
    one = found.entities[0]
    assert repr(one) == f"<Entity {shown[0]} at {one.start}:{one.end}, probability {one.score:.3f}>"
    assert repr(model.tag([""])[0]) == "<Tagged '': no entities>"
    long = replace(found, text="x" * 200, entities=found.entities[:1] * 9)
    assert repr(long) == f"<Tagged '{'x' * 80}...': {', '.join([shown[0]] * 8)}, ...>"


def test_a_text_does_not_depend_on_its_neighbors(trained):
    model = load(trained.folder / "run" / "model")
    texts = ["word0 word1s", "word3 " * 20 + "word0", "word1"]
    alone = [model.tag([text])[0] for text in texts]
    for one, other in zip(model.tag(texts), alone, strict=True):
        assert one.tags == other.tags
        assert [e.score for e in one.entities] == pytest.approx([e.score for e in other.entities], abs=1e-5)
