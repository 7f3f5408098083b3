"""Proves that SQuAD files are read strictly, and that windows and labels are those of the written rules."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from minilm.corpus.squad import GoldAnswer, Question, read_squad
from minilm.errors import DataError, UsageError
from minilm.tasks.squad import Window, label_windows, make_windows
from minilm.text.tokenizer import Tokenizer

WORDS = [f"w{number}" for number in range(10)]
ROW = {
    "id": "q1",
    "title": "T",
    "context": "w1 w2, w3",
    "question": "w0 w0",
    "is_impossible": False,
    "answers": [{"text": "w2", "answer_start": 3}],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ",", "-", "w", "##x", "##y"]))
    return Tokenizer.load(path)


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
        place=f"{tmp_path}/in.jsonl{packed}:1",
    )
    assert rows[0] == first
    assert (rows[1].answers, rows[1].is_impossible) == ((), True)
    assert deep[1].place == f"{tmp_path}/in.json{packed}: article 1, paragraph 1, question 2"
    assert [(q.id, q.context, q.answers, q.title) for q in rows] == [
        (q.id, q.context, q.answers, q.title) for q in deep
    ]


def test_version_1_has_no_is_impossible_and_a_start_may_be_unknown(tmp_path: Path) -> None:
    row = without("is_impossible", "title", id=7, answers=[{"text": "w2", "answer_start": None}])
    (question,) = read_squad(lines(tmp_path / "in.jsonl", row))
    assert (question.id, question.title, question.is_impossible) == ("7", "", False)
    assert question.answers == (GoldAnswer(text="w2", start=None),)


def test_unlabelled_questions_need_no_answers(tmp_path: Path) -> None:
    path = lines(tmp_path / "in.jsonl", without("answers", "is_impossible"), without(id="q2", answers="anything"))
    assert [question.answers for question in read_squad(path, labelled=False)] == [(), ()]
    with pytest.raises(DataError, match="no field 'answers'"):
        read_squad(path)


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_fine(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", "\ufeff" + json.dumps(ROW) + "\r\n\r\n" + json.dumps(without(id="b")) + "\r\n")
    assert [question.place[-2:] for question in read_squad(path)] == [":1", ":3"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("context", contxt="w1"), "no field 'context', found 'id', 'title', 'question', 'is_impossible',"),
        (without(context=5), "field 'context' is a whole number, expected a string"),
        (without(question=None), "field 'question' is null, expected a string"),
        (without(id=True), "field 'id' is true or false, expected a string"),
        (without(is_impossible="false"), "field 'is_impossible' is a string, expected true or false"),
        (without(answers={"text": ["w2"]}), "field 'answers' is an object, expected a list"),
        (without(answers=["w2"]), "answer 1 is a string, expected an object"),
        (
            without(answers=[{"text": "w2"}]),
            "answer 1: no field 'answer_start', found 'text'; add the field or correct",
        ),
        (without(answers=[{"text": "w2", "answer_start": 3.0}]), "'answer_start' is a number, expected a whole number"),
        (without(answers=[{"text": "w2", "answer_start": True}]), "'answer_start' is true or false, expected a whole"),
        (without(answers=[]), "found no answer, expected one: 'is_impossible' is false; correct one of the two"),
        (without("is_impossible", answers=[]), "'is_impossible' is false when it is left out; correct one of the two"),
        (without(is_impossible=True), "found answers, expected none: 'is_impossible' is true"),
        (without(context="a\ud800"), "field 'context' holds half a surrogate pair, which is no character"),
    ],
)
def test_bad_fields_are_errors_with_their_place(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_squad(lines(tmp_path / "in.jsonl", without(id="fine"), row))
    assert str(error.value).startswith(f"{tmp_path}/in.jsonl:2")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "in.json:1: broken JSON, Expecting value"),
        ("[]", "in.json:1: expected a JSON object {...}, found a list"),
        ('{"data": []}', "in.json: the file holds no question; expected at least one"),
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
        ("[" * 100_000, "in.json: the JSON is nested too deep"),
        ('{"data":' * 100_000, "in.json: the JSON is nested too deep"),
        ('{"data": NaN}', "in.json: field 'data' is a number, expected a list"),
        ('{"data": 1, "data": []}', 'in.json:1: key "data" is given twice'),
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
        ("[" * 100_000, r"in\.jsonl:2: the JSON is nested too deep"),
        ("NaN", r"in\.jsonl:2: expected a JSON object {\.\.\.}, found a float"),
        ('{"id": NaN}', r"in\.jsonl:2: field 'id' is a number, expected a string"),
        (json.dumps(ROW), r"in\.jsonl:2: id 'q1' is already at .*in\.jsonl:1; keep one of them"),
    ],
)
def test_hostile_lines_are_errors_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_squad(write(tmp_path / "in.jsonl", json.dumps(ROW) + "\n" + line))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"in\.csv: unknown kind of file; expected \.json or \.jsonl"):
        read_squad(tmp_path / "in.csv")
    with pytest.raises(UsageError, match=r"in\.json: no such file"):
        read_squad(tmp_path / "in.json")
    with pytest.raises(DataError, match=r"in\.jsonl: the file holds no question"):
        read_squad(write(tmp_path / "in.jsonl", "\n"))
    (tmp_path / "in.jsonl").write_bytes(b'{}\n{"id": "\xff"}')
    with pytest.raises(DataError, match=r"in\.jsonl:2: byte 0xff is not UTF-8"):
        read_squad(tmp_path / "in.jsonl")
    (tmp_path / "in.json.gz").write_bytes(gzip.compress(b"{}" * 100)[:-9])
    with pytest.raises(DataError, match="damaged or cut short"):
        read_squad(tmp_path / "in.json.gz")


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


def asked(context: str, question: str = "w0 w0", **values: object) -> Question:
    return Question(id="x", question=question, context=context, place="f:1", **values)  # type: ignore[arg-type]


def tokens(window: Window, tokenizer: Tokenizer) -> str:
    return " ".join(tokenizer.id_to_token(int(token)) for token in window.token_ids)


def test_windows_start_every_stride_and_the_last_ends_with_the_context(tokenizer: Tokenizer) -> None:
    windows = make_windows([asked(" ".join(WORDS))], tokenizer, max_tokens=9, stride=3)  # room for 4
    assert [tokens(window, tokenizer) for window in windows] == [
        "[CLS] w0 w0 [SEP] w0 w1 w2 w3 [SEP]",
        "[CLS] w0 w0 [SEP] w3 w4 w5 w6 [SEP]",
        "[CLS] w0 w0 [SEP] w6 w7 w8 w9 [SEP]",
    ]
    assert [window.begin for window in windows] == [0, 3, 6]
    assert [window.first for window in windows] == [4, 4, 4]
    assert windows[0].segment_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert windows[1].offsets.tolist() == [[9, 11], [12, 14], [15, 17], [18, 20]]
    masks = ["".join(map(str, window.max_context.astype(int))) for window in windows]
    assert masks == ["1111", "0111", "0111"]
    assert windows[0].context_offsets is windows[2].context_offsets


def test_a_short_context_is_one_window_and_an_empty_one_too(tokenizer: Tokenizer) -> None:
    questions = [asked("w1, w2"), asked(""), asked(" \u200b\n"), asked("w1", question="")]
    windows = make_windows(questions, tokenizer, max_tokens=9)
    assert [window.question for window in windows] == [0, 1, 2, 3]
    assert tokens(windows[0], tokenizer) == "[CLS] w0 w0 [SEP] w1 , w2 [SEP]"
    for window in windows[1:3]:
        assert tokens(window, tokenizer) == "[CLS] w0 w0 [SEP] [SEP]"
        assert window.segment_ids.tolist() == [0, 0, 0, 0, 1]
        assert window.offsets.shape == (0, 2)
        assert window.max_context.shape == (0,)
    assert tokens(windows[3], tokenizer) == "[CLS] [SEP] w1 [SEP]"
    assert make_windows([], tokenizer) == []


def test_long_questions_are_cut_and_counted(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    questions = [asked("w1", question="w0"), asked("w1", question="w3 w4 w5"), asked("w1", question="w6 w7 w8")]
    windows = make_windows(questions, tokenizer, max_question_tokens=2)
    assert tokens(windows[1], tokenizer) == "[CLS] w3 w4 [SEP] w1 [SEP]"
    assert caplog.messages == ["2 of 3 questions are longer than 2 tokens and were cut (first: f:1)"]


def test_a_stride_that_would_leave_gaps_is_shortened_and_said(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    windows = make_windows([asked(" ".join(WORDS))], tokenizer, max_tokens=9, stride=5)
    assert [window.begin for window in windows] == [0, 4, 8]
    assert caplog.messages == [
        "1 of 1 questions leave less than stride=5 tokens of a window for the context: their windows start closer "
        "together (first: f:1)"
    ]


def test_sizes_that_leave_no_room_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        UsageError,
        match="f:1: the question takes 2 of max_tokens=5 tokens and leaves no room for its context: "
        "raise max_tokens or lower max_question_tokens",
    ):
        make_windows([asked("w1")], tokenizer, max_tokens=5)
    assert len(make_windows([asked("w1 w2")], tokenizer, max_tokens=6, stride=1)) == 2
    with pytest.raises(UsageError, match="stride is 0, expected 1 or more"):
        make_windows([asked("w1")], tokenizer, stride=0)
    with pytest.raises(UsageError, match="max_question_tokens is 0, expected 1 or more"):
        make_windows([asked("w1")], tokenizer, max_question_tokens=0)


def test_a_context_of_100_000_tokens(tokenizer: Tokenizer) -> None:
    """All windows share one table of characters; the whole takes a second."""
    question = asked("w1 w2 w3, " * 25_000)
    windows = make_windows([question] * 3, tokenizer)
    assert len(windows) == 3 * (1 + -(-(100_000 - 379) // 128))
    assert len({id(window.context_offsets) for window in windows}) == 1
    assert sum(int(window.max_context.sum()) for window in windows) == 300_000
    assert sum(window.max_context.nbytes + window.token_ids.nbytes for window in windows) < 6e6


# --- labels --------------------------------------------------------------------------------------


def labels(tokenizer: Tokenizer, context: str, text: str, start: int | None, **sizes: int) -> list[list[int]]:
    question = asked(context, answers=(GoldAnswer(text=text, start=start),))
    return label_windows([question], make_windows([question], tokenizer, **sizes)).positions.tolist()


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("w2", 3, [5, 5]),
        ("w2, w3", 3, [5, 7]),
        ("w2", None, [5, 5]),  # its first occurrence
        ("w2", 11, [8, 8]),
        ("x", 15, [10, 10]),  # the piece of a word
        ("2", 4, [5, 5]),  # inside a token: the token
        (" w2,", 2, [5, 6]),  # spaces belong to no token
    ],
)
def test_labels_are_the_fewest_tokens_that_cover_the_answer(
    tokenizer: Tokenizer, text: str, start: int | None, expected: list[int]
) -> None:
    assert labels(tokenizer, "w1 w2, w3  w2 wx", text, start) == [expected]


def test_windows_without_the_whole_answer_point_at_cls(tokenizer: Tokenizer) -> None:
    rows = labels(tokenizer, " ".join(WORDS), "w3 w4", 9, max_tokens=9, stride=2)  # windows of 4: 0-3, 2-5, 4-7, 6-9
    assert rows == [[0, 0], [5, 6], [0, 0], [0, 0]]


def test_questions_without_a_findable_answer_are_left_out_and_counted(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    def answered(text: str, start: int | None) -> Question:
        return asked("w1 w2 \u200b w3", answers=(GoldAnswer(text=text, start=start),))

    usable = [asked("w1", is_impossible=True), answered("w3", 8)]
    lost = [answered(*one) for one in (("w2", 2), ("w9", None), ("w3", -2), ("w2", 99), ("", 3), ("\u200b", 6))]
    questions = [usable[0], *lost, usable[1]]
    labelled = label_windows(questions, make_windows(questions, tokenizer))
    assert [window.question for window in labelled.windows] == [0, 7]
    assert labelled.positions.tolist() == [[0, 0], [6, 6]]
    assert labelled.positions.dtype == np.int64
    assert caplog.record_tuples == [
        (
            "minilm.tasks.squad",
            logging.WARNING,
            "6 of 8 questions are left out: the answer is not in the context, or not where the file says (first: f:1)",
        )
    ]
    with pytest.raises(DataError, match=r"no question can be learned from: .* \(first: f:1\)"):
        label_windows(lost, make_windows(lost, tokenizer))
