"""Rows of rerankers: every shape is read, and a row that cannot be used is named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm.errors import DataError, SettingsError
from minilm.tasks.rerank.rows import RankedList, read_lists
from minilm.tasks.rerank.settings import RerankSettings
from minilm.tasks.rerank.targets import ranked_relevance, require_different, targets

NAN = float("nan")
TRIPLE = {"query": "q", "positive": "a", "negatives": ["b", "c"]}
LIST = {"query": "q", "texts": ["a", "b"]}
PAIR = {"query": "q", "text": "a"}


def written(folder: Path, rows: list[dict], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **settings: object) -> list[RankedList]:
    return read_lists(path, RerankSettings(name="rows", **settings))


def known(one: RankedList) -> tuple[object, ...]:
    return one.query, one.texts, one.labels, one.scores, one.num_positives


def test_a_positive_and_its_negatives(tmp_path):
    [one] = read(written(tmp_path, [{**TRIPLE, "scores": [2, 0.5, -1]}]))
    assert known(one) == ("q", ("a", "b", "c"), (1, 0, 0), (2, 0.5, -1), 1)
    assert one.location == f"{tmp_path / 'rows.jsonl'}:1"
    [one] = read(written(tmp_path, [{"query": "q", "positive": ["a", "b"], "negative": "c"}]))
    assert known(one) == ("q", ("a", "b", "c"), (1, 1, 0), None, 2)


def test_negatives_in_numbered_columns(tmp_path):
    """As `mine_hard_negatives` of sentence-transformers writes n-tuples; unless one is named."""
    row = {"query": "q", "positive": "a", "negative_1": "b", "negative_2": "c", "scores": [2, 0.5, -1]}
    [one] = read(written(tmp_path, [row]))
    assert known(one) == ("q", ("a", "b", "c"), (1, 0, 0), (2, 0.5, -1), 1)
    [one] = read(written(tmp_path, [{**row, "scores": [2, 0.5]}]), negatives="negative_1")
    assert one.texts == ("a", "b")
    _, fewer = read(written(tmp_path, [row, {"query": "r", "positive": "a", "negative_2": "c", "scores": [2, 0.5]}]))
    assert known(fewer) == ("r", ("a", "c"), (1, 0), (2, 0.5), 1)
    with pytest.raises(DataError, match=r"rows.jsonl:1: column 'scores' has 3 numbers for 2 texts"):
        read(written(tmp_path, [{**row, "negative_2": ""}]))


def test_negatives_are_in_the_order_of_their_numbers_whatever_that_of_the_columns(tmp_path):
    numbered = {f"negative_{number}": f"n{number}" for number in (10, 2, 1)}
    row = {"query": "q", "positive": "a", **numbered, "scores": [3, 2, 1, 0]}
    [one] = read(written(tmp_path, [row]))
    assert one.texts == ("a", "n1", "n2", "n10")
    [one] = read(written(tmp_path, [{**row, "negative": "b", "scores": [4, 3, 2, 1, 0]}]))
    assert one.texts == ("a", "b", "n1", "n2", "n10")


def test_a_list_of_texts(tmp_path):
    rows = [{**LIST, "labels": [2, 0]}, {**LIST, "labels": [0, 1]}]
    found = read(written(tmp_path, rows))
    assert [known(one) for one in found] == [("q", ("a", "b"), (2, 0), None, 0), ("q", ("a", "b"), (0, 1), None, 0)]
    assert [(one.id, one.doc_ids) for one in found] == [("0", ("0", "1")), ("1", ("0", "1"))]


def test_scores_of_any_row_beside_a_teacher_are_an_error(tmp_path):
    path = written(tmp_path, [TRIPLE, {**TRIPLE, "query": "r", "scores": [3, 2, 1]}])
    with pytest.raises(DataError, match=r"rows.jsonl:2: found column 'scores' and task.teacher t,"):
        read_lists(path, RerankSettings(name="rows"), teacher="t")
    [one] = read_lists(written(tmp_path, [{**TRIPLE, "scores": None}]), RerankSettings(name="rows"), teacher="t")
    assert one.scores is None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('"[""a"",""b""]"', "column 'negatives' is a list in quotes, as in .csv"),
        ('[["a"]]', "column 'negatives' is a list, expected a string"),
        ('[null, "a"]', "column 'negatives' has null, expected a string"),
    ],
)
def test_cells_that_spell_no_list_of_texts(tmp_path, cell, message):
    (tmp_path / "rows.tsv").write_text(f"query\tpositive\tnegatives\nq\ta\t{cell}\n")
    with pytest.raises(DataError, match=f"rows.tsv:2: {message}"):
        read(tmp_path / "rows.tsv")


def test_a_text_may_begin_with_a_bracket(tmp_path):
    (tmp_path / "rows.tsv").write_text("query\tpositive\tnegatives\nq\ta\t[Music] plays\n")
    assert read(tmp_path / "rows.tsv")[0].texts == ("a", "[Music] plays")


def test_rows_with_one_text_are_joined_by_query(tmp_path):
    rows = [("q", "a", 1), ("r", "b", 0), ("q", "c", 0)]
    found = read(written(tmp_path, [{"query": query, "text": text, "label": label} for query, text, label in rows]))
    assert [known(one) for one in found] == [("q", ("a", "c"), (1, 0), None, 0), ("r", ("b",), (0,), None, 0)]


def test_ids_of_queries_join_and_ids_of_texts_are_kept(tmp_path):
    rows = [{**PAIR, "label": 1, "query_id": query, "doc_id": f"d{number}"} for number, query in enumerate([7, 8, 7])]
    found = read(written(tmp_path, rows))
    assert [(one.id, one.doc_ids) for one in found] == [("7", ("d0", "d2")), ("8", ("d1",))]


def test_columns_are_named_and_labels_and_scores_are_kept_apart(tmp_path):
    row = {"question": "q", "passage": "a", "gold": 1, "teacher": 3.5, "text": "another"}
    columns = {"query": "question", "text": "passage", "label": "gold", "score": "teacher"}
    [one] = read(written(tmp_path, [row]), **columns)
    assert known(one) == ("q", ("a",), (1,), (3.5,), 0)


def test_tables_hold_the_same_rows(tmp_path):
    (tmp_path / "a.csv").write_text('query,positive,negative,scores\nq,a,b,"[2, -1.5]"\n')
    assert known(read(tmp_path / "a.csv")[0]) == ("q", ("a", "b"), (1, 0), (2, -1.5), 1)
    (tmp_path / "b.csv").write_text("query,text,score\nq,a,0.5\nq,b,-2\n")
    assert known(read(tmp_path / "b.csv")[0]) == ("q", ("a", "b"), None, (0.5, -2), 0)
    (tmp_path / "d.csv").write_text('query,positive,negatives\nq,a,"[""b"", ""c""]"\nq,a,[b]\n')
    assert [known(one)[1] for one in read(tmp_path / "d.csv")] == [("a", "b", "c"), ("a", "[b]")]
    (tmp_path / "e.tsv").write_text('query\ttexts\tlabels\nq\t["a", "b"]\t[1, 0]\n')
    assert known(read(tmp_path / "e.tsv")[0]) == ("q", ("a", "b"), (1, 0), None, 0)
    pq.write_table(pa.Table.from_pylist([{**LIST, "labels": [0.0, 1.0]}]), tmp_path / "c.parquet")
    assert known(read(tmp_path / "c.parquet")[0]) == ("q", ("a", "b"), (0, 1), None, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows.jsonl: found no row, expected at least one query with a text"),
        ([{"text": "a", "label": 1}], ":1: no field 'query', found 'text', 'label'; name the columns with task.query"),
        ([{"query": "q"}], ":1: no field 'text' or 'texts' or 'positive', found 'query'; name the columns with"),
        (
            [{"query": "q", "positive": "a"}],
            ":1: no field 'negatives' or 'negative' or 'negative_1', found 'query', 'positive'; name",
        ),
        ([PAIR], ":1: no field 'label' or 'labels' or 'score' or 'scores', found 'query', 'text'; name"),
        ([{**PAIR, "label": 1}, {"query": "q", "text": "b"}], ":2: no field 'label', found 'query', 'text'; every row"),
        ([{**TRIPLE, "negatives": []}], ":1: column 'negatives' is an empty list, expected at least one text; correct"),
        ([{**TRIPLE, "positive": " "}], ":1: column 'positive' is an empty text; correct the row or remove it"),
        ([{**TRIPLE, "negatives": ["b", 3]}], ":1: column 'negatives' has a whole number, expected a string"),
        ([{**TRIPLE, "query": None}], ":1: column 'query' is null, expected a string"),
        (
            [{**TRIPLE, "scores": [1, 2]}],
            ":1: column 'scores' has 2 numbers for 3 texts, expected one for each, that of",
        ),
        (
            [TRIPLE | {"scores": [1, 0, 0]}, TRIPLE | {"scores": [1, NAN, 0]}],
            ":2: column 'scores': found nan, expe",
        ),
        ([{**LIST, "labels": [1]}], ":1: column 'labels' has 1 number for 2 texts, expected one for each; correct"),
        ([{**LIST, "labels": [1, -1]}], ":1: found the label -1, expected 0 (not relevant) or more"),
        ([{**LIST, "labels": [True, False]}], ":1: column 'labels': found true or false, expected a number"),
        ([{**PAIR, "label": "high"}], ":1: column 'label': found 'high', expected a number"),
        ([{**PAIR, "score": "[1"}], ":1: column 'score': found '[1', expected a list in JSON, such as [1, -0.5]"),
        (
            [{**PAIR, "label": 1, "query_id": "1", "doc_id": "d"}] * 2,
            ":2: text 'd' of query '1' is already at",
        ),
        (
            [{**PAIR, "label": 1, "query_id": "1"}, {"query": "r", "text": "b", "label": 0, "query_id": "1"}],
            ":2: query '1' has the text 'r', at",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, rows, message):
    with pytest.raises(DataError) as caught:
        read(written(tmp_path, rows))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "query,positive,negatives\nq,a,\"['b']\"\n",
            ":2: column 'negatives': found \"['b']\", expected a list in JSON",
        ),
        ('query,text,label\nq,a,1\nq,"[""b""]",0\n', ":3: column 'text' is a list, expected a string; correct"),
        ("query,texts,labels\nq,['b'],[1]\n", ":2: column 'texts': found \"['b']\", expected a list in JSON"),
        ("query,positive,negatives\nq,a,[]\n", ":2: column 'negatives' is an empty list, expected at least one text"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named(tmp_path, table, message):
    (tmp_path / "rows.csv").write_text(table)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "rows.csv")
    assert message in str(caught.value)


def test_rows_that_a_teacher_scores_need_no_scores_and_have_none(tmp_path):
    def taught(row: dict) -> RankedList:
        return read_lists(written(tmp_path, [row]), RerankSettings(name="rows", loss="mse"), teacher="t")[0]

    assert known(taught(PAIR)) == ("q", ("a",), None, None, 0)
    assert known(taught(LIST)) == ("q", ("a", "b"), None, None, 0)
    assert known(taught({**LIST, "labels": [1, 0]})) == ("q", ("a", "b"), (1, 0), None, 0)
    assert known(taught(TRIPLE)) == ("q", ("a", "b", "c"), (1, 0, 0), None, 1)
    with pytest.raises(DataError, match=r"jsonl:1: found column 'scores' and task.teacher t, expected one source of"):
        taught({**TRIPLE, "scores": [1, 2, 3]})


def test_a_named_column_must_exist(tmp_path):
    with pytest.raises(DataError, match=r"rows.jsonl:1: no field 'gold', found .*; correct task\.label"):
        read(written(tmp_path, [TRIPLE]), label="gold")


def one_list(tmp_path: Path, row: dict) -> RankedList:
    return read(written(tmp_path, [row]))[0]


@pytest.mark.parametrize(
    ("row", "loss", "expected"),
    [
        ({**TRIPLE, "scores": [3, 2, 1]}, "bce", (1, 0, 0)),
        ({**TRIPLE, "scores": [3, 2, 1]}, "lambda", (1, 0, 0)),
        ({**TRIPLE, "scores": [3, 2, 1]}, "mse", (3, 2, 1)),
        ({**TRIPLE, "scores": [3, 2, 1]}, "margin_mse", (3, 2, 1)),
        ({**LIST, "labels": [2, 0], "scores": [7, -7]}, "lambda", (2, 0)),
        ({**LIST, "labels": [2, 0], "scores": [7, -7]}, "kl", (7, -7)),
        ({**LIST, "labels": [2, 0]}, "kl", (2, 0)),
        ({**LIST, "scores": [0.2, 0.9]}, "bce", (0.2, 0.9)),
    ],
)
def test_a_loss_learns_labels_or_scores(tmp_path, row, loss, expected):
    assert targets(one_list(tmp_path, row), loss) == expected


@pytest.mark.parametrize(
    ("row", "loss", "message"),
    [
        (TRIPLE, "mse", "found no scores, expected one for each text with loss mse; add them"),
        (TRIPLE, "margin_mse", "found no scores, expected one for each text with loss margin_mse"),
        ({**TRIPLE, "positive": ["a", "z"]}, "kl", "found no scores"),
        ({**LIST, "scores": [3, 1]}, "margin_mse", "expected one positive and its negatives with loss margin_mse"),
        ({**LIST, "labels": [3, 1]}, "bce", "a text has the label 3, expected 0 to 1 with loss bce"),
        ({**LIST, "scores": [3, -1]}, "bce", "a text has the score -1 and no label, expected a label of 0 or more"),
        ({**LIST, "labels": [0, 0]}, "lambda", "no text of query 'q' has a label above 0; remove the query"),
        ({**LIST, "labels": [1, 1]}, "lambda", "query 'q' has 2 texts, labelled 1, and none that is less relevant"),
        ({**PAIR, "label": 1}, "lambda", "query 'q' has a single text, labelled 1, and none that is less relevant"),
        ({**PAIR, "score": 1}, "kl", "query 'q' has a single text, expected a list with loss kl"),
        ({**LIST, "labels": [128, 0]}, "lambda", "a text has the label 128, expected at most 100 with loss lambda"),
        ({**LIST, "scores": [1, 1e39]}, "mse", "column 'scores': found 1e+39, expected -1e+15 to 1e+15 to train"),
    ],
)
def test_a_list_that_teaches_nothing_is_named(tmp_path, row, loss, message):
    with pytest.raises(DataError) as caught:
        targets(one_list(tmp_path, row), loss)
    assert str(caught.value).startswith(f"{tmp_path / 'rows.jsonl'}:1: ")
    assert message in str(caught.value)


def test_one_class_is_an_error_and_a_ranking_needs_two(tmp_path):
    one = one_list(tmp_path, {**LIST, "labels": [1, 1]})
    message = r"all 2 training texts have the label 1, expected at least two different ones \(first: .*rows.jsonl:1\)"
    with pytest.raises(DataError, match=message):
        require_different(targets(one, "bce"), "bce", one)
    with pytest.raises(DataError, match="none that is less relevant"):
        ranked_relevance(one)


def test_only_kl_has_a_temperature():
    assert RerankSettings(name="x", loss="kl", temperature=2.0).temperature == 2
    with pytest.raises(SettingsError, match="found temperature 2 with loss 'mse', which has none"):
        RerankSettings(name="x", loss="mse", temperature=2.0)
