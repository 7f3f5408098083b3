"""Labeled rows: labels by name, number or text; ids; what is skipped is counted; what is wrong names its line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from minilm.errors import DataError, UsageError
from minilm.tasks.text.labels import MOST_LABELS, label_number, label_text
from minilm.tasks.text.rows import OfficialLayout, TextColumns, TextTask, read_rows_and_labels, read_text_rows

TASK = TextTask(
    name="mood",
    columns=TextColumns(text="text", label="label"),
    labels=("bad", "good"),
    metrics=("accuracy",),
    main="accuracy",
)
PAIRS = replace(TASK, columns=TextColumns(text="a", text_pair="b", label="label"))
STARS = replace(TASK, labels=("1", "2", "3"))
NUMBER = replace(TASK, labels=(), metrics=("pearson",), main="pearson")
OFFICIAL = replace(TASK, official=OfficialLayout())


@pytest.fixture
def jsonl(tmp_path: Path):
    def write(*rows: object, name: str = "in.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def labels(path: Path, task: TextTask = TASK) -> list[int | float | None]:
    return [row.label for row in read_text_rows(path, task)]


def rejection(path: Path, task: TextTask = TASK, **options) -> str:
    """The message of a rejected file, without the folder."""
    with pytest.raises(DataError) as caught:
        read_text_rows(path, task, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_single_texts_and_pairs(jsonl):
    path = jsonl({"text": "x", "label": "good"})
    [row] = read_text_rows(path, TASK)
    assert (row.text, row.text_pair, row.label, row.id, row.location) == ("x", None, 1, "0", f"{path}:1")
    [row] = read_text_rows(jsonl({"a": "x", "b": "", "label": "bad"}), PAIRS)
    assert (row.text, row.text_pair, row.label) == ("x", "", 0)


@pytest.mark.parametrize(
    ("value", "names", "number"),
    [
        ("good", ("bad", "good"), 1),
        (1, ("bad", "good"), 1),
        (1.0, ("bad", "good"), 1),
        ("1", ("bad", "good"), 1),
        (True, ("false", "true"), 1),
        (1, ("0", "1"), 1),
        (1, ("1", "2", "3"), 0),
        ("3", ("1", "2", "3"), 2),
        (-1, ("-1", "1"), 0),
        ("-", ("+", "-"), 1),
    ],
)
def test_a_label_may_be_a_name_or_its_number(value, names, number):
    assert label_number(value, names) == number
    assert type(label_number(value, names)) is int


@pytest.mark.parametrize(
    ("value", "names", "message"),
    [
        ("fine", ("bad", "good"), "found label 'fine', expected one of bad, good, 0, 1"),
        (2, ("bad", "good"), "found label 2, expected one of bad, good, 0, 1"),
        (-1, ("bad", "good"), "found label -1, expected one of bad, good, 0, 1"),
        (0.5, ("bad", "good"), "found label 0.5, expected one of bad, good, 0, 1"),
        (0, ("1", "2", "3"), "found label '0', expected one of 1, 2, 3"),
        (True, ("0", "1"), "found label 'true', expected one of 0, 1"),
        (None, ("bad", "good"), "found null, expected a label"),
        ("", ("bad", "good"), "found an empty text, expected a label"),
        ([1], ("bad", "good"), "found a list, expected a label"),
    ],
)
def test_another_label_is_rejected_with_the_known_ones(value, names, message):
    with pytest.raises(ValueError, match="found") as caught:
        label_number(value, names)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "number"), [(3, 3.0), (0.25, 0.25), ("4.750", 4.75), (" -1e-2 ", -0.01), (".5", 0.5)]
)
def test_a_number_to_predict_may_be_text(value, number):
    assert label_number(value, ()) == number


@pytest.mark.parametrize("value", ["", "high", "nan", "inf", "1_0", "1,5", True, None, float("nan"), 10**400, "1e999"])
def test_anything_but_a_finite_number_is_rejected(value):
    with pytest.raises(ValueError, match=r"expected a (finite )?number"):
        label_number(value, ())


def test_a_number_that_float32_cannot_learn_is_rejected():
    with pytest.raises(ValueError, match=r"found -1e\+39, expected -1e\+15 to 1e\+15 to train in single precision"):
        label_number("-1e39", ())


def test_a_number_outside_the_range_is_rejected():
    assert label_number(5, (), label_range=(0.0, 5.0)) == 5.0
    with pytest.raises(ValueError, match=r"^found 5.1, expected a number from 0 to 5$"):
        label_number("5.1", (), label_range=(0.0, 5.0))


def test_equal_labels_of_different_kinds_are_one():
    assert label_text(2) == label_text(2.0) == label_text("2") == "2"


def test_numbers_for_named_labels_are_read_and_warned_about_once(jsonl, caplog):
    path = jsonl({"text": "x", "label": 0}, {"text": "y", "label": "good"}, {"text": "z", "label": "1"})
    assert labels(path) == [0, 1, 1]
    assert caplog.messages == [f"2 labels are numbers, read as: 0 is bad, 1 is good (first: {path}:1: label '0')"]


def test_labels_in_another_case_are_matched_and_warned_about_once(jsonl, caplog):
    path = jsonl({"text": "x", "label": "Good"}, {"text": "y", "label": "BAD"}, {"text": "z", "label": "good"})
    assert labels(path) == [1, 0, 1]
    assert caplog.messages == [f"2 labels were matched without regard to case (first: {path}:1: label 'Good')"]


def test_rows_without_a_label_are_skipped_and_counted(jsonl, caplog):
    rows = [{"text": "x", "label": label} for label in ("good", "-", -1, "bad", "-1", -1.0)]
    path = jsonl(*rows)
    assert [(row.label, row.id) for row in read_text_rows(path, TASK)] == [(1, "0"), (0, "3")]
    assert caplog.messages == [f"4 rows without a label skipped (first: {path}:2: label '-')"]


def test_minus_is_a_label_if_it_is_listed(jsonl, caplog):
    task = replace(TASK, labels=("-1", "0", "1"))
    assert labels(jsonl({"text": "x", "label": -1}, {"text": "y", "label": 1}), task) == [0, 2]
    task = replace(TASK, labels=("+", "-"))
    assert labels(jsonl({"text": "x", "label": "-"}), task) == [1]
    assert labels(jsonl({"text": "x", "label": -1}), NUMBER) == [-1.0]
    assert caplog.messages == []


def test_ids_are_those_of_the_column_or_the_row_numbers(jsonl):
    def ids(*rows: dict[str, object], task: TextTask = TASK) -> list[str]:
        return [row.id for row in read_text_rows(jsonl(*({"text": "x", "label": 1, **row} for row in rows)), task)]

    assert ids({}, {}) == ["0", "1"]
    assert ids({"index": 7, "idx": "b"}, {"index": 9, "idx": "c"}) == ["b", "c"]
    assert ids({"index": 7}, {"index": 9}) == ["7", "9"]
    named = replace(TASK, columns=replace(TASK.columns, id="key"))
    assert ids({"key": "k", "id": 1}, task=named) == ["k"]


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (1, "column 'id': id '1' is already at in.jsonl:1"),
        (None, "column 'id' is missing or null, expected a text or a whole number"),
        (2.5, "column 'id' is 2.5, expected a text or a whole number"),
        ("", "column 'id' is '', expected a text or a whole number"),
    ],
)
def test_unusable_ids_are_an_error_on_request_and_otherwise_replaced(second, problem, jsonl, caplog):
    path = jsonl({"id": 1, "text": "x", "label": "bad"}, {"id": second, "text": "y", "label": "bad"})
    assert [row.id for row in read_text_rows(path, TASK)] == ["0", "1"]
    assert [message.replace(f"{path.parent}/", "") for message in caplog.messages] == [
        f"in.jsonl:2: {problem}; the rows of this file are numbered from 0 instead"
    ]
    named = replace(TASK, columns=replace(TASK.columns, id="id"))
    assert rejection(path, named) == f"in.jsonl:2: {problem}; correct the row, or name another id column"


def test_unlabeled_files_need_no_label_and_may_contain_empty_texts(jsonl):
    rows = read_text_rows(jsonl({"text": "x"}, {"text": "", "label": "unheard of"}), TASK, labelled=False)
    assert [(row.text, row.label) for row in rows] == [("x", None), ("", None)]
    assert read_text_rows(jsonl(), TASK, labelled=False) == []


def test_official_names_of_columns_are_found_by_the_first_row(jsonl):
    other = OfficialLayout(columns=(TextColumns(text="sentence", label="gold"),))
    task = replace(TASK, official=other)
    assert labels(jsonl({"sentence": "x", "gold": "good"}), task) == [1]
    assert labels(jsonl({"text": "x", "label": "good"}), task) == [1]
    assert rejection(jsonl({"sentence": "x", "label": "good"}), task) == (
        "in.jsonl:1: task 'mood' expects the columns 'text', 'label' or 'sentence', 'gold', found 'sentence', 'label'; "
        "name the file's own columns, for example --set task.text=sentence (minilm predict: --text sentence), "
        "or rename them"
    )


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"review": "x", "label": "good"}, "--set task.text=review (minilm predict: --text review)"),
        ({"text": "x", "labels": "good", "note": "y"}, "--set task.label=labels"),
        (
            {"body": "x", "stars": "good"},
            "--set task.text=COLUMN --set task.label=COLUMN (minilm predict: --text COLUMN)",
        ),
    ],
)
def test_a_missing_column_names_the_key_to_set(jsonl, row, advice):
    assert f"; name the file's own columns, for example {advice}, or rename them" in rejection(jsonl(row))


def test_rows_of_another_width_are_skipped_in_official_files_only(tmp_path, caplog):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\nx\t1\nbroken\nby a newline\t0\t1\ny\t0\n")
    assert [(row.text, row.id) for row in read_text_rows(path, OFFICIAL)] == [("x", "0"), ("y", "3")]
    skipped = f"2 rows with more or fewer columns than expected skipped (first: {path}:3: 1 columns, expected 2)"
    assert skipped in caplog.messages
    assert rejection(path) == "train.tsv:3: 1 columns, expected 2 (a text may contain a tab); correct the row"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "no column 'label', which the first row has; add it or remove the row"),
        ({"label": 1}, "no column 'text', which the first row has; add it or remove the row"),
        ({"text": None, "label": 1}, "column 'text' is null, expected a string; correct the row"),
        ({"text": 5, "label": 1}, "column 'text' is a whole number, expected a string; correct the row"),
        ({"text": " \t", "label": 1}, "column 'text' is empty, expected a text; correct the row or remove it"),
        ({"text": "x", "label": 2}, "column 'label': found label 2, expected one of bad, good, 0, 1; correct the row"),
        ({"text": "x", "label": None}, "column 'label': found null, expected a label; correct the row"),
    ],
)  # fmt: skip
def test_a_bad_row_is_an_error_with_its_line(row, message, jsonl):
    assert rejection(jsonl({"text": "first", "label": "good"}, row)) == f"in.jsonl:2: {message}"


def test_a_pair_may_have_one_empty_text(jsonl):
    path = jsonl({"a": "", "b": "x", "label": 1}, {"a": "", "b": " ", "label": 1})
    assert rejection(path, PAIRS) == "in.jsonl:2: 'a' and 'b' are empty, expected a text; correct the row or remove it"


def test_a_file_without_labeled_rows_is_an_error(jsonl):
    assert rejection(jsonl()) == "in.jsonl: found no row with a label, expected at least one"
    assert rejection(jsonl({"text": "x", "label": -1})) == (
        "in.jsonl: found no row with a label, expected at least one; "
        "1 rows without a label skipped (first: in.jsonl:1: label '-1')"
    )


def test_labels_that_are_not_listed_come_from_the_files(jsonl):
    first = jsonl(*({"text": "x", "label": label} for label in ("b", "a", "b")), name="1.jsonl")
    second = jsonl({"text": "x", "label": "ä"}, name="2.jsonl")
    assert read_rows_and_labels([first, second], TASK)[0].labels == ("a", "b", "ä")
    numbers = jsonl(*({"text": "x", "label": label} for label in (10, "9", 2.0, -1)))
    assert read_rows_and_labels([numbers], TASK)[0].labels == ("-1", "2", "9", "10")
    assert read_rows_and_labels([jsonl({"text": "x", "label": True}, {"text": "x", "label": False})], TASK)[
        0
    ].labels == ("false", "true")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["1", 2.5], r"in\.jsonl:2: found label '2\.5', a number with decimals: .* set task\.regression to true, else"),
        (
            ["a", "-"],
            r"in\.jsonl:2: found label '-', which means no label in files such as SNLI .* list the labels in task",
        ),
        (
            ["Pos", "neg", "pos"],
            r"in\.jsonl:3: found label 'pos' and elsewhere 'Pos', which differ only in case, spaces or the",
        ),
        (["x", " x"], r"in\.jsonl:2: found label ' x' and elsewhere 'x', which differ only in case, spaces or"),
        ([True, "True"], r"in\.jsonl:2: found label 'True' and elsewhere 'true', which differ only in case, spaces or"),
        (
            list(range(MOST_LABELS + 5)),
            r"in\.jsonl:1001: found 1,005 different labels, expected at most 1,000: set task",
        ),
    ],
)
def test_implausible_labels_are_rejected(found, message, jsonl):
    path = jsonl(*({"text": "x", "label": label} for label in found))
    with pytest.raises((UsageError, DataError), match=message):
        read_rows_and_labels([path], TASK)


def test_labels_that_differ_only_in_case_may_be_listed(jsonl):
    path = jsonl({"text": "x", "label": "a"}, {"text": "x", "label": "A"})
    assert [row.label for row in read_text_rows(path, replace(TASK, labels=("A", "a")))] == [1, 0]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_no_label(value, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"text": "x", "label": 1.0}}\n{{"text": "y", "label": {value}}}\n')
    with pytest.raises(DataError, match=r"in\.jsonl:2: column 'label': found -?(nan|inf), expected a label; correct"):
        read_rows_and_labels([path], TASK)


def test_a_missing_label_is_found_while_labels_are_collected(jsonl):
    path = jsonl({"text": "x", "label": "a"}, {"text": "x", "label": None})
    with pytest.raises(DataError, match=r"in\.jsonl:2: column 'label': found null, expected a label; correct the row"):
        read_rows_and_labels([path], TASK)
