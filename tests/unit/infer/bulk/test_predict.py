"""Which columns of a file are read as texts, and which ids."""

from __future__ import annotations

import json

import pytest

from minilm.errors import DataError
from minilm.files.rows import Row
from minilm.infer.bulk.predict import InputColumns, read_candidates
from minilm.tasks.text.rows import OfficialLayout, TextColumns

PUBLISHED = OfficialLayout(
    columns=(
        TextColumns(text="question", text_pair="sentence", label="label"),
        TextColumns(text="review", label="label"),
    )
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["text", "id"], ("text", None)),
        (["question", "sentence"], ("question", "sentence")),
        (["sentence", "review"], ("review", None)),  # half a pair is not a match
        (["other"], ("text", None)),  # nothing fits: the message names what was asked for
    ],
)
def test_the_names_of_published_files_are_tried_when_the_task_s_own_are_absent(header, expected):
    columns = InputColumns(text="text", id="id", official=PUBLISHED)
    found = columns.of(Row(line=1, values=dict.fromkeys(header, "x")))
    assert (found.text, found.text_pair) == expected
    assert found.id == "id"


CANDIDATE = {"query_id": "a", "doc_id": "d", "query": "q", "text": "t"}


def candidates(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_candidates(path, InputColumns(text="query", text_pair="text"), ("query_id", "doc_id"))


def test_a_text_may_belong_to_several_queries_and_a_query_to_several_ids(tmp_path):
    rows = [CANDIDATE, {**CANDIDATE, "doc_id": "e"}, {**CANDIDATE, "query_id": "b"}]
    found = candidates(tmp_path / "rows.jsonl", *rows)
    assert [one.ids for one in found] == [("a", "d"), ("a", "e"), ("b", "d")]
    without = {"query": "q", "text": "t"}
    assert [one.ids for one in candidates(tmp_path / "rows.jsonl", without, without)] == [None, None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [CANDIDATE, {**CANDIDATE, "doc_id": "e"}, {**CANDIDATE, "text": "other"}],
            r"rows.jsonl:3: text 'd' of query 'a' is already at .*rows.jsonl:1; keep one of the two",
        ),
        (
            [CANDIDATE, {**CANDIDATE, "doc_id": "e", "query": "r"}],
            r"rows.jsonl:2: query 'a' has the text 'r', at .*rows.jsonl:1 'q'; expected the same",
        ),
        (
            [{"query": "q", "text": "t"}, CANDIDATE],
            r"rows.jsonl:2: found 'query_id' and 'doc_id', which .*rows.jsonl:1 lacks; expected them in every row or",
        ),
        ([CANDIDATE, {**CANDIDATE, "doc_id": ""}], r"rows.jsonl:2: column 'doc_id' is an empty id; correct the row"),
        ([CANDIDATE, {"query": "q", "text": "t"}], r"rows.jsonl:2: no field 'query_id'"),
    ],
)
def test_candidates_whose_ids_do_not_fit_are_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        candidates(tmp_path / "rows.jsonl", *rows)
