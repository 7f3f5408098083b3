"""Proves that SQuAD files are read strictly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm.errors import DataError, UsageError
from minilm.tasks.squad.read import GoldAnswer, Question, read_squad, read_squad_references

ROW = {
    "id": "q1",
    "title": "T",
    "context": "w1 w2, w3",
    "question": "w0 w0",
    "is_impossible": False,
    "answers": [{"text": "w2", "answer_start": 3}],
}


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lines(path: Path, *rows: object) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def nested(path: Path, *questions: object, **paragraph: object) -> Path:
    inner = {"context": ROW["context"], "qas": list(questions), **paragraph}
    return write(path, json.dumps({"version": "v2.0", "data": [{"title": "T", "paragraphs": [inner]}]}))


def without(*names: str, **changes: object) -> dict[str, object]:
    return {name: value for name, value in {**ROW, **changes}.items() if name not in names}


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_both_layouts_give_the_same_questions(tmp_path: Path, packed: str) -> None:
    impossible = without(id="q2", is_impossible=True, answers=[])
    rows = read_squad(lines(tmp_path / f"in.jsonl{packed}", ROW, impossible))
    deep = read_squad(nested(tmp_path / f"in.json{packed}", ROW, impossible))
    first = Question(
        id="q1",
        question="w0 w0",
        context="w1 w2, w3",
        title="T",
        answers=(GoldAnswer(text="w2", start=3),),
        is_impossible=False,
        location=f"{tmp_path}/in.jsonl{packed}:1",
    )
    assert rows[0] == first
    assert (rows[1].answers, rows[1].is_impossible) == ((), True)
    assert deep[1].location == f"{tmp_path}/in.json{packed}: article 1, paragraph 1, question 2"
    assert [(q.id, q.context, q.answers, q.title) for q in rows] == [
        (q.id, q.context, q.answers, q.title) for q in deep
    ]


def test_version_1_has_no_is_impossible_and_a_start_may_be_unknown(tmp_path: Path) -> None:
    row = without("is_impossible", "title", id=7, answers=[{"text": "w2", "answer_start": None}])
    (question,) = read_squad(lines(tmp_path / "in.jsonl", row))
    assert (question.id, question.title, question.is_impossible) == ("7", "", False)
    assert question.answers == (GoldAnswer(text="w2", start=None),)


def test_unlabeled_questions_need_no_answers(tmp_path: Path) -> None:
    path = lines(tmp_path / "in.jsonl", without("answers", "is_impossible"), without(id="q2", answers="anything"))
    assert [question.answers for question in read_squad(path, labelled=False)] == [(), ()]
    with pytest.raises(DataError, match="no field 'answers'"):
        read_squad(path)


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_fine(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", "\ufeff" + json.dumps(ROW) + "\r\n\r\n" + json.dumps(without(id="b")) + "\r\n")
    assert [question.location[-2:] for question in read_squad(path)] == [":1", ":3"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("context", contxt="w1"), "no field 'context', found 'id', 'title', 'question', 'is_impossible',"),
        (without(context=5), "field 'context' is a whole number, expected a string"),
        (without(question=None), "field 'question' is null, expected a string"),
        (without(id=True), "field 'id' is true or false, expected a string"),
        (without(is_impossible="false"), "field 'is_impossible' is a string, expected true or false"),
        (without(answers={"text": ["w2"]}), "answers: no field 'answer_start', found 'text'"),
        (without(answers=["w2"]), "answer 1 is a string, expected an object"),
        (
            without(answers=[{"text": "w2"}]),
            "answer 1: no field 'answer_start', found 'text'; add the field or correct",
        ),
        (without(answers=[{"text": "w2", "answer_start": 3.0}]), "'answer_start' is a number, expected a whole number"),
        (without(answers=[{"text": "w2", "answer_start": True}]), "'answer_start' is true or false, expected a whole"),
        (without(answers=[]), "found no answer, expected one: 'is_impossible' is false; correct one of the two"),
        (without("is_impossible", answers=[]), "'is_impossible' is false by default; correct one of the two"),
        (without(is_impossible=True), "found answers, expected none: 'is_impossible' is true"),
        (without(context="a\ud800"), "field 'context' contains an unpaired surrogate; correct the text"),
    ],
)
def test_bad_fields_are_errors_with_their_location(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_squad(lines(tmp_path / "in.jsonl", without(id="fine"), row))
    assert str(error.value).startswith(f"{tmp_path}/in.jsonl:2")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "in.json:1: broken JSON, Expecting value"),
        ("[]", "in.json: found no question; expected at least one"),
        ('{"data": []}', "in.json: found no question; expected at least one"),
        ('{"dat": []}', "in.json: no field 'data', found 'dat'; add the field or correct its name"),
        ('{"data": [1]}', "in.json: article 1 is a whole number, expected an object"),
        ('{"data": [{"paragraphs": {}}]}', "in.json: article 1: field 'paragraphs' is an object, expected a list"),
        (
            '{"data": [{"paragraphs": [{"qas": [{"id": "a", "answers": [{"text": "a", "answer_start": 0}]}]}]}]}',
            "in.json: article 1, paragraph 1, question 1: no field 'context', found 'id', 'answers'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "a", "answers": []}]}]}]}',
            "in.json: article 1, paragraph 1, question 1: found no answer",
        ),
        ("[" * 100_000, "in.json: the JSON is nested too deeply"),
        ('{"data":' * 100_000, "in.json: the JSON is nested too deeply"),
        ('{"data": NaN}', "in.json: field 'data' is a number, expected a list"),
        ('{"data": 1, "data": []}', 'in.json:1: key "data" appears twice'),
    ],
)
def test_hostile_nested_files_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_squad(write(tmp_path / "in.json", text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b"', r"in\.jsonl:2: broken JSON"),
        ("[" * 100_000, r"in\.jsonl:2: the JSON is nested too deeply"),
        ("NaN", r"in\.jsonl:2: expected a JSON object {\.\.\.}, found a number"),
        ('{"id": NaN}', r"in\.jsonl:2: field 'id' is a number, expected a string"),
        (
            json.dumps(ROW),
            r"in\.jsonl:2: repeated id 'q1', first used at .*in\.jsonl:1 \(1 repeated ids in total\); keep one",
        ),
    ],
)
def test_hostile_lines_are_errors_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_squad(write(tmp_path / "in.jsonl", json.dumps(ROW) + "\n" + line))


def test_wrong_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"in\.csv: unknown kind of file; expected \.json, \.jsonl"):
        read_squad(tmp_path / "in.csv")
    with pytest.raises(UsageError, match=r"in\.json: no such file"):
        read_squad(tmp_path / "in.json")
    with pytest.raises(DataError, match=r"in\.jsonl: found no question"):
        read_squad(write(tmp_path / "in.jsonl", "\n"))
    (tmp_path / "in.jsonl").write_bytes(b'{}\n{"id": "\xff"}')
    with pytest.raises(DataError, match=r"in\.jsonl:2: byte 0xff is not UTF-8"):
        read_squad(tmp_path / "in.jsonl")
    (tmp_path / "in.json.gz").write_bytes(gzip.compress(b"{}" * 100)[:-9])
    with pytest.raises(DataError, match="damaged or truncated"):
        read_squad(tmp_path / "in.json.gz")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows", "impossible", "unplaced"),
    [
        ("squad/dev-v2.0.jsonl.gz", 11_873, 5_945, 1_425),
        ("squad/dev-v1.1.jsonl.gz", 10_570, 0, 2_921),
        ("official_layout/squad/train-v2.0_subset.json.gz", 4_719, 348, 0),
    ],
)
def test_real_files_read_whole(data_dir: Path, name: str, rows: int, impossible: int, unplaced: int) -> None:
    questions = read_squad(data_dir / name)
    assert len(questions) == rows
    assert sum(question.is_impossible for question in questions) == impossible
    assert sum(answer.start is None for question in questions for answer in question.answers) == unplaced
    contexts = {question.context for question in questions}
    assert len({id(question.context) for question in questions}) == len(contexts)  # one copy of each


# --- windows -------------------------------------------------------------------------------------


HUB = {
    **{name: ROW[name] for name in ("id", "title", "context", "question")},
    "answers": {"text": ["w2", "w3"], "answer_start": [3, 7]},
}
NO_ANSWER = {**HUB, "id": "q2", "answers": {"text": [], "answer_start": []}}


def hub_files(folder: Path) -> dict[str, Path]:
    """The rows that `datasets` gives for squad and squad_v2, saved in each way that it and pandas save them."""
    pq.write_table(pa.Table.from_pylist([HUB, NO_ANSWER]), folder / "hub.parquet")
    return {
        "lines": lines(folder / "hub.jsonl", HUB, NO_ANSWER),
        "under data": write(folder / "data.json", json.dumps({"version": "2", "data": [HUB, NO_ANSWER]})),
        "array": write(folder / "array.json", json.dumps([HUB, NO_ANSWER], indent=1)),
        "packed": write(folder / "array.json.gz", json.dumps([HUB, NO_ANSWER])),
        "parquet": folder / "hub.parquet",
    }


@pytest.mark.parametrize("kind", ["lines", "under data", "array", "packed", "parquet"])
def test_rows_of_the_hub_are_read_in_every_container(kind, tmp_path):
    path = hub_files(tmp_path)[kind]
    first, second = read_squad(path)
    assert first.answers == (GoldAnswer(text="w2", start=3), GoldAnswer(text="w3", start=7))
    assert (first.is_impossible, second.is_impossible, second.answers) == (False, True, ())
    assert (first.context, first.title, second.id) == ("w1 w2, w3", "T", "q2")
    assert [one.answers for one in read_squad_references(path)] == [("w2", "w3"), ()]


def test_flat_rows_with_official_answers_are_read_under_data(tmp_path):
    [found] = read_squad(write(tmp_path / "a.json", json.dumps({"data": [ROW]})))
    assert found.answers == (GoldAnswer(text="w2", start=3),)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["w2"], "answer_start": []}, "answers: found 1 of 'text' and 0 of 'answer_start'; expected one"),
        ({"text": ["w2"]}, "answers: no field 'answer_start'"),
        ({"text": [3], "answer_start": [3]}, "answer 1: field 'text' is a whole number, expected a string"),
    ],
)
def test_mistakes_in_answer_lists_are_named(answers, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_squad(lines(tmp_path / "a.jsonl", {**HUB, "answers": answers}))
