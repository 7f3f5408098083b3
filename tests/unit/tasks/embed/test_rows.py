"""Rows of training text vectors: each kind is read from its columns; what cannot be used is named with its line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from minilm.errors import DataError, SettingsError
from minilm.tasks.embed.rows import scored_pairs, training_rows
from minilm.tasks.embed.settings import EmbedSettings


def settings(loss: str, **values: object) -> EmbedSettings:
    teacher = {"teacher": "t"} if loss in ("vectors", "similarities") else {}
    return EmbedSettings(name="n", loss=loss, **{**teacher, **values})  # type: ignore[arg-type]


def written(folder: Path, *rows: object, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def test_plain_texts_come_from_every_named_column_and_from_lines(tmp_path, caplog):
    table = written(tmp_path, {"text": "a"}, {"q1": "b", "q2": " "}, {"q1": "c", "q2": "d"})
    lines = tmp_path / "lines.txt.gz"
    lines.write_bytes(gzip.compress(b"e\n\nf\n"))
    rows = list(training_rows([table, str(lines)], settings("vectors", texts=["text", "q1", "q2"])))
    assert [row.texts for row in rows] == [("a",), ("b",), ("c",), ("d",), ("e",), ("f",)]
    assert [row.location.rpartition(":")[2] for row in rows] == ["1", "2", "3", "3", "1", "3"]
    assert "2 empty texts were skipped" in caplog.text


def test_a_second_pass_reports_nothing_again(tmp_path, caplog):
    path, reported = written(tmp_path, {"text": "a"}, {"text": ""}), set()
    for _ in range(2):
        assert len(list(training_rows([path], settings("vectors"), reported))) == 1
    assert caplog.text.count("empty texts were skipped") == 1


def test_pairs_have_any_number_of_negatives(tmp_path):
    path = written(
        tmp_path,
        {"query": "q", "positive": "p"},
        {"query": "q", "positive": "p", "negatives": ["a", "b"], "negative": "c"},
        {"query": "q", "positive": "p", "negatives": None, "negative": ""},
    )
    rows = training_rows([path], settings("infonce"))
    assert [row.texts for row in rows] == [("q", "p"), ("q", "p", "a", "b", "c"), ("q", "p")]


def test_negatives_in_numbered_columns(tmp_path):
    """As `mine_hard_negatives` of sentence-transformers writes n-tuples; unless the columns are named."""
    path = tmp_path / "rows.csv"
    path.write_text('query,positive,negative_1,negative_2,negative_of,scores\nq,p,a,b,c,"[3, 2, 1]"\n')
    for loss in ("infonce", "margin_mse"):
        (row,) = training_rows([str(path)], settings(loss))
        assert row.texts == ("q", "p", "a", "b")
    (row,) = training_rows([str(path)], settings("infonce", negatives=("negative_2",)))
    assert row.texts == ("q", "p", "b")
    path.write_text("query,positive,negative_10,negative_2\nq,p,a,b\n")
    (row,) = training_rows([str(path)], settings("infonce"))
    assert row.texts == ("q", "p", "b", "a")  # by number


def test_lists_have_the_score_of_the_positive_first(tmp_path):
    path = written(tmp_path, {"query": "q", "positive": "p", "negatives": ["a"], "scores": [2, -1.5]})
    (row,) = training_rows([path], settings("kl"))
    assert (row.texts, row.scores) == (("q", "p", "a"), (2.0, -1.5))


def test_lists_for_kl_may_have_no_positive(tmp_path):
    row = {"query": "q", "texts": ["a", "b", "c"]}
    path = written(tmp_path, {**row, "scores": [2, -1.5, 0]}, LIST)
    found = list(training_rows([path], settings("kl")))
    assert [(one.texts, one.scores) for one in found] == [
        (("q", "a", "b", "c"), (2, -1.5, 0)),
        (("q", "p", "a"), (1, 2)),
    ]
    (taught,) = training_rows([written(tmp_path, row)], settings("kl", teacher="t"))
    assert (taught.texts, taught.scores) == (("q", "a", "b", "c"), ())
    cells = tmp_path / "rows.tsv"
    cells.write_text('query\ttexts\tscores\nq\t["a", "b"]\t[1, 2]\n')
    (told,) = training_rows([str(cells)], settings("kl"))
    assert (told.texts, told.scores) == (("q", "a", "b"), (1, 2))
    for loss, one in (("margin_mse", row), ("kl", {**row, "negatives": ["d"]})):
        with pytest.raises(DataError, match=r"rows.jsonl:1: no field 'positive', found 'query', 'texts'"):
            list(training_rows([written(tmp_path, one)], settings(loss)))


def test_scores_of_a_csv_file_are_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b,s\nx,y,0.5\nx,z,1\n")
    row, _ = training_rows([str(path)], settings("cosent", sentence1="a", sentence2="b", score="s"))
    assert (row.texts, row.scores) == (("x", "y"), (0.5,))


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_cells_spell_lists_in_json(suffix, separator, tmp_path):
    cells = [
        ["query", "positive", "negatives", "scores"],
        ["q", "p", '["a", "b"]', "[2, -1.5, 0]"],
        ["q", "[p]", "[b] c", "[1, 2]"],
    ]
    file = tmp_path / f"rows.{suffix}"
    with file.open("w", newline="") as stream:
        plain = {"quoting": csv.QUOTE_NONE, "quotechar": None} if suffix == "tsv" else {}
        csv.writer(stream, delimiter=separator, **plain).writerows(cells)
    rows = list(training_rows([str(file)], settings("margin_mse")))
    assert [(row.texts, row.scores) for row in rows] == [
        (("q", "p", "a", "b"), (2, -1.5, 0)),
        (("q", "[p]", "[b] c"), (1, 2)),
    ]


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("negatives", "['a']", r"rows.csv:2: column 'negatives': found .*, expected a list in JSON, such as \["),
        ("negatives", '["a", 3]', r"rows.csv:2: column 'negatives' has a whole number, expected a string"),
        ("scores", "[1", r"rows.csv:2: column 'scores': found '\[1', expected a list in JSON, such as \[1, -0.5\]"),
        ("scores", "[1, true]", r"rows.csv:2: column 'scores': found true or false, expected a number"),
        ("scores", "[1, NaN]", r"rows.csv:2: column 'scores': found nan, expected a finite number"),
        ("positive", '["p"]', r"rows.csv:2: column 'positive' is a list, expected a string"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named(column, cell, expected, tmp_path):
    row = {"query": "q", "positive": "p", "negatives": "a", "scores": "[1, 2]", column: cell}
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([row.keys(), row.values()])
    with pytest.raises(DataError, match=expected):
        list(training_rows([str(tmp_path / "rows.csv")], settings("kl")))


LIST = {"query": "q", "positive": "p", "negatives": ["a"], "scores": [1, 2]}


def test_rows_that_a_teacher_scores_have_no_scores(tmp_path):
    found = settings("kl", teacher="t")
    unscored = {name: value for name, value in LIST.items() if name != "scores"}
    rows = list(training_rows([written(tmp_path, unscored, {**unscored, "scores": None})], found))
    assert [(row.texts, row.scores) for row in rows] == [(("q", "p", "a"), ())] * 2
    with pytest.raises(DataError, match=r"jsonl:2: found column 'scores' and task.teacher t, expected one source"):
        list(training_rows([written(tmp_path, unscored, LIST)], found))


def test_numbered_columns_are_not_named_where_they_are_not_read(tmp_path):
    path = written(tmp_path, {"query": "q", "positive": "p", "negative_1": "a", "scores": [1, 2]})
    with pytest.raises(DataError, match=r":1: found no negative in 'other'; a list needs at least one besides the pos"):
        list(training_rows([path], settings("kl", negatives=("other",))))


@pytest.mark.parametrize(
    ("loss", "row", "expected"),
    [
        ("vectors", {"texts": "a"}, r"rows.jsonl:2: no field 'text', found 'texts'; .*--set task.texts=COLUMN"),
        ("vectors", {"text": 1}, r":2: column 'text' is a whole number, expected a string"),
        ("infonce", {"query": "q"}, r":2: no field 'positive', found 'query'"),
        ("infonce", {"query": " ", "positive": "p"}, r":2: column 'query' is an empty text"),
        (
            "infonce",
            {"query": "q", "positive": "p", "negatives": ["a", ""]},
            r":2: column 'negatives' has an empty text",
        ),
        ("cosent", {"sentence1": "a", "sentence2": "b", "score": None}, r":2: column 'score': found null, expected a"),
        ("cosine", {"sentence1": "a", "sentence2": "b", "score": 5}, r":2: column 'score' is 5, expected -1 to 1 with"),
        (
            "cosine",
            {"sentence1": "a", "sentence2": "b", "score": -1.5},
            r":2: column .score. is -1.5, expected -1",
        ),
        ("cosent", {"sentence1": "a", "sentence2": "b", "score": 1}, r"all 2 training pairs .* score 1, .*jsonl:1\)"),
        ("cosent", '{"sentence1": "a", "sentence2": "b", "score": NaN}', r":2: .*found nan, expected a finite number"),
        (
            "kl",
            {**LIST, "negatives": []},
            r":2: found no negative in 'negatives', 'negative' or numbered columns such as 'negative_1'; a list",
        ),
        ("kl", {"query": "q", "texts": ["a"], "scores": [1]}, r":2: column 'texts' has 1 text; a list needs at least"),
        (
            "kl",
            {"query": "q", "texts": ["a", "b"], "scores": [1]},
            r":2: .* 1 number for 2 texts, expected one for each;",
        ),
        (
            "kl",
            {"query": "q", "texts": ["a", 3], "scores": [1, 2]},
            r":2: column 'texts' has a whole number, expected a",
        ),
        (
            "kl",
            {**LIST, "scores": [1, 1e39]},
            r":2: column 'scores': found 1e\+39, expected -1e\+15 to 1e\+15 to train",
        ),
        (
            "cosent",
            {"sentence1": "a", "sentence2": "b", "score": -1e39},
            r":2: column 'score': found -1e\+39, expected",
        ),
        ("kl", {**LIST, "scores": [1]}, r":2: column 'scores' has 1 number for 2 texts"),
        ("kl", {**LIST, "scores": 1}, r":2: column 'scores' has 1 number for 2 texts, expected one for each, that of"),
        ("margin_mse", '{"query": "q", "positive": "p", "negatives": ["a"], "scores": [1, NaN]}', r":2: .*found nan"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(loss, row, expected, tmp_path):
    good = {"text": "t", "sentence1": "a", "sentence2": "b", "score": 1, **LIST}
    with pytest.raises(DataError, match=expected):
        list(training_rows([written(tmp_path, good, row)], settings(loss)))


def test_cosines_learn_scores_up_to_1_and_their_order_any(tmp_path):
    pair = {"sentence1": "a", "sentence2": "b"}
    path = written(tmp_path, {**pair, "score": -1}, {**pair, "score": 1})
    assert [row.scores for row in training_rows([path], settings("cosine"))] == [(-1,), (1,)]
    path = written(tmp_path, {**pair, "score": 0}, {**pair, "score": 5})
    assert [row.scores for row in training_rows([path], settings("cosent"))] == [(0,), (5,)]


@pytest.mark.parametrize(
    ("loss", "row", "empty", "found"),
    [
        ("vectors", {"text": "a"}, [], "text"),
        ("vectors", {"text": "a"}, [{"text": " "}], "text"),
        ("cosent", {"sentence1": "a", "sentence2": "b", "score": 1}, [], "row"),
        ("infonce", {"query": "q", "positive": "p"}, [], "row"),
        ("kl", {"query": "q", "positive": "p", "negatives": ["a"], "scores": [1, 0]}, [], "row"),
    ],
)
def test_one_of_several_files_without_a_row_is_named(tmp_path, loss, row, empty, found):
    paths = [written(tmp_path, row, name="full.jsonl"), written(tmp_path, *empty, name="empty.jsonl")]
    with pytest.raises(DataError, match=f"empty.jsonl: found no {found}, expected at least one"):
        list(training_rows(paths, settings(loss)))


def test_held_out_pairs_need_two_different_scores(tmp_path):
    pair = {"sentence1": "a", "sentence2": "b", "score": 1}
    with pytest.raises(DataError, match="found 2 pairs with the same score; a correlation needs at least two"):
        scored_pairs(written(tmp_path, pair, pair), settings("vectors"))
    with pytest.raises(DataError, match="found no row, expected at least one"):
        scored_pairs(written(tmp_path), settings("vectors"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"loss": "vectors"}, "loss vectors learns from a teacher; set teacher to a model folder"),
        ({"loss": "infonce", "teacher": "t"}, "found teacher with loss infonce; it is for vectors, similarities"),
        ({"loss": "kl", "cache": "c"}, "found cache without teacher, whose scores it would hold: remove it"),
        ({"loss": "kl", "teacher": "t", "scores": "s"}, "found both scores and teacher, expected one source"),
        ({"loss": "kl", "symmetric": True}, "found symmetric with loss kl; it is for infonce: remove it"),
        ({"loss": "infonce", "role": "query"}, "found role with loss infonce, whose rows have both roles"),
        ({"loss": "infonce", "temperature": 0}, "temperature is 0; expected more than 0"),
        ({"loss": "infonce", "dimensions": [8, 8]}, "dimensions is .8, 8.; expected each length once"),
        (
            {"loss": "vectors", "teacher": "t", "dimensions": [8], "projection": "drop"},
            "found dimensions with projection drop: .*; set projection to auto, or remove dimensions",
        ),
        ({"loss": "vectors", "teacher": "t", "texts": []}, "texts is empty; name at least one column"),
    ],
)
def test_keys_that_do_not_fit_the_loss_are_refused(values, expected):
    with pytest.raises(SettingsError, match=expected):
        EmbedSettings(name="n", **values)
