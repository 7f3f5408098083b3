"""`minilm score`: tables and JSON, warnings about unmatched ids, and one clear error for every bad file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from minilm.files.row_writer import writing_rows

SQUAD_ROWS = [
    {"id": "q1", "answers": [{"text": "the Denver Broncos", "answer_start": 3}, {"text": "Broncos"}]},
    {"id": "q2", "answers": [{"text": "10th and 11th"}]},
    {"id": "q3", "answers": []},
]
ANSWERS = {"q1": "Broncos", "q2": "10th", "q3": ""}

pytestmark = pytest.mark.usefixtures("inside")


def write(name: str, content: object) -> str:
    """Write text, one JSON document, or rows (for .jsonl), gzipped for .gz."""
    if isinstance(content, str | bytes):
        data = content.encode() if isinstance(content, str) else content
    elif ".jsonl" in name:
        data = "".join(json.dumps(row) + "\n" for row in content).encode()
    else:
        data = json.dumps(content).encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return name


def nested(rows: list[dict[str, object]]) -> dict[str, object]:
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": rows}]}]}


def prediction_rows(answers: dict[str, str]) -> list[dict[str, str]]:
    return [{"id": key, "prediction": text} for key, text in answers.items()]


@pytest.mark.parametrize("references", ["dev.json", "dev.json.gz", "dev.jsonl", "dev.jsonl.gz", "lines.json"])
@pytest.mark.parametrize("predictions", ["p.json", "p.json.gz", "p.jsonl", "p.jsonl.gz", "lines.p.json"])
def test_every_format_gives_the_same_json(score, predictions, references):
    """Also a .json file with one object per line; stdout is one JSON object and nothing else."""
    lines = "".join(json.dumps(row) + "\n" for row in SQUAD_ROWS)
    rows = lines if "lines" in references else SQUAD_ROWS if "jsonl" in references else nested(SQUAD_ROWS)
    write(references, rows)
    pairs = "\ufeff" + "\n\n".join(json.dumps(row) for row in prediction_rows(ANSWERS))
    write(
        predictions,
        pairs if "lines" in predictions else prediction_rows(ANSWERS) if "jsonl" in predictions else ANSWERS,
    )
    code, out, said = score("squad", predictions, references, "--json")
    assert (code, said) == (0, [])
    found = json.loads(out)
    f1 = 2 * 1 * (1 / 3) / (4 / 3)
    assert found == pytest.approx(
        {
            **{"exact": 200 / 3, "f1": 100 * (2 + f1) / 3, "total": 3},
            **{"HasAns_exact": 50, "HasAns_f1": 100 * (1 + f1) / 2, "HasAns_total": 2},
            **{"NoAns_exact": 100, "NoAns_f1": 100, "NoAns_total": 1},
        }
    )


def test_the_table_is_aligned(score):
    write("dev.jsonl", SQUAD_ROWS)
    write("p.json", ANSWERS)
    write("na.json", {"q1": -12.5, "q2": 0.25, "q3": 3})
    code, out, said = score("squad", "p.json", "dev.jsonl", "--na-prob", "na.json", "--na-prob-thresh", "0")
    assert (code, said) == (0, [])
    assert out.splitlines() == [
        "exact               66.6667",
        "f1                  66.6667",
        "total                     3",
        "HasAns_exact        50.0000",
        "HasAns_f1           50.0000",
        "HasAns_total              2",
        "NoAns_exact        100.0000",
        "NoAns_f1           100.0000",
        "NoAns_total               1",
        "best_exact          66.6667",
        "best_exact_thresh     -12.5",
        "best_f1             83.3333",
        "best_f1_thresh         0.25",
    ]


@pytest.mark.parametrize("field", ["na_prob", "null_odds"])
def test_na_prob_may_be_rows(score, field):
    write("dev.jsonl", SQUAD_ROWS)
    write("p.json", ANSWERS)
    write("na.jsonl", [{"id": key, field: 5} for key in ANSWERS])
    found = json.loads(score("squad", "p.json", "dev.jsonl", "--na-prob", "na.jsonl", "--json")[1])
    assert (found["HasAns_exact"], found["NoAns_exact"]) == (0, 100)


def test_ids_without_a_partner_are_warned_about_once(score):
    write("dev.jsonl", SQUAD_ROWS)
    write("p.json", {"q1": "Broncos", "x": "1", "y": "2"})
    write("na.json", {"q1": 0, "z": 1})
    code, out, said = score("squad", "p.json", "dev.jsonl", "--na-prob", "na.json", "--json")
    assert code == 0
    assert json.loads(out)["exact"] == pytest.approx(100 / 3)
    assert said == [
        "p.json: 2 of 3 references have no prediction and count as wrong (first: 'q2')",
        "p.json: 2 predictions have no reference and will be ignored (first: 'x')",
        "na.json: 1 na_prob has no reference and will be ignored (first: 'z')",
    ]


def test_equal_repeated_predictions_count_once(score):
    write("dev.jsonl", SQUAD_ROWS)
    write("p.jsonl", [*prediction_rows(ANSWERS), *prediction_rows(ANSWERS)])
    code, out, said = score("squad", "p.jsonl", "dev.jsonl", "--json")
    assert (code, json.loads(out)["total"]) == (0, 3)
    assert said == ["p.jsonl:4: 3 repeated ids with equal values count once (first: 'q1', also in p.jsonl:1)"]


ROW = {"id": "q1", "prediction": "x"}
KINDS = "unknown kind of file; expected .json, .jsonl, .csv, .tsv, .parquet, each (but .parquet) optionally with .gz"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", "", "p.jsonl: the file is empty; expected at least one id with its value"),
        ("p.json", " \n", "p.json: the file is empty; expected at least one id with its value"),
        ("p.json", {}, "p.json: the file is empty; expected at least one id with its value"),
        ("p.json", [ROW], "p.json: found a list, expected one object, id to value, or one object per line"),
        ("p.json", {"q1": 5}, "p.json: id 'q1': found a whole number, expected a string"),
        ("p.json", {"q1": {"text": "x"}}, "p.json: id 'q1': found an object, expected a string"),
        ("p.json", '{"q1": "x",\n "q2"}',
         "p.json:2: broken JSON (Expecting ':' delimiter at column 6); write the file again"),
        ("p.json", '{"q1": "x", "q2": "y", "q1": "z"}',
         "p.json: id 'q1' is already in p.json with another value (1 repeated ids in all); keep one of each"),
        ("p.jsonl", [ROW, {"id": "q2", "prediction": None}], "p.jsonl:2: id 'q2': found null, expected a string"),
        ("p.jsonl", [ROW, {"id": "q2", "text": "y"}],
         "p.jsonl:2: no field 'prediction', found 'id', 'text'; add the field or correct its name"),
        ("p.jsonl", [{"prediction": "x"}],
         "p.jsonl:1: no field 'id' or 'idx', found 'prediction'; add the field or correct its name"),
        ("p.jsonl", [{"id": 1.5, "prediction": "x"}],
         "p.jsonl:1: the id is a number, expected a string or a whole number"),
        ("p.jsonl", [{"id": True, "prediction": "x"}],
         "p.jsonl:1: the id is true or false, expected a string or a whole number"),
        ("p.jsonl", ["x"], "p.jsonl:1: found a string, expected an object with 'id' or 'idx'"),
        ("p.jsonl", [ROW, ROW | {"prediction": "y"}, ROW | {"prediction": "z"}],
         "p.jsonl:2: id 'q1' is already in p.jsonl:1 with another value (2 repeated ids in all); keep one of each"),
        ("p.jsonl", '{"id": "q1", "prediction": "x"}\n{"id', "p.jsonl:2: broken JSON "
         "(Unterminated string starting at column 2); write the file again"),
        ("p.jsonl", b'{"id": "q1", "prediction": "x"}\n{"id": "\xff"}',
         "p.jsonl:2: byte 0xff is not UTF-8: save the file as UTF-8"),
        ("p.xlsx", "q1\tx", f"p.xlsx: {KINDS}"),
        ("p.json", {"a": "x", "b": "y"},
         "p.json: no prediction id matches a reference id: prediction ids "
         "look like 'a', reference ids like 'q1'; check that the files belong together"),
    ],
)  # fmt: skip
def test_bad_predictions_are_one_clear_error(score, name, content, message):
    write("dev.jsonl", SQUAD_ROWS)
    code, out, said = score("squad", write(name, content), "dev.jsonl")
    assert (code, out, said) == (2 if "unknown kind" in message else 3, "", [message])


def test_deeply_nested_json_is_an_error(score):
    write("dev.jsonl", SQUAD_ROWS)
    write("p.json", "[" * 200_000)
    code, _, said = score("squad", "p.json", "dev.jsonl")
    assert code == 3
    assert said[0].startswith("p.json:1: unreadable JSON (")


def test_a_damaged_gz_and_a_missing_file_are_errors(score):
    write("dev.jsonl", SQUAD_ROWS)
    whole = gzip.compress(b'{"q1": "x"}')
    Path("p.json.gz").write_bytes(whole[:-6])
    code, _, said = score("squad", "p.json.gz", "dev.jsonl")
    assert code == 3
    assert said[0].startswith("p.json.gz: the .gz file is damaged or truncated")
    assert score("squad", "gone.json", "dev.jsonl")[::2] == (2, ["gone.json: no such file; check the input path"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dev.jsonl", "", "dev.jsonl: found no question; expected at least one"),
        ("dev.json", nested([]), "dev.json: found no question; expected at least one"),
        ("dev.json", {"q1": "x"}, "dev.json: no field 'data', found 'q1'; add the field or correct its name"),
        ("dev.json", {"data": {}}, "dev.json: field 'data' is an object, expected a list"),
        ("dev.json", [1], "dev.json: article 1 is a whole number, expected an object"),
        ("dev.json", {"data": [{"title": "t"}]},
         "dev.json: article 1: no field 'paragraphs', found 'title'; add the field or correct its name"),
        ("dev.json", nested([{"id": "a"}]),
         "dev.json: article 1, paragraph 1, question 1: no field 'answers', found 'id', 'context', 'title'; "
         "add the field or correct its name"),
        ("dev.json", nested([SQUAD_ROWS[0], SQUAD_ROWS[0]]),
         "dev.json: article 1, paragraph 1, question 2: repeated id 'q1', first used at "
         "dev.json: article 1, paragraph 1, question 1 (1 repeated ids in total); keep one question per id"),
        ("dev.jsonl", [{"id": "a", "answers": [{"text": 3}]}],
         "dev.jsonl:1, answer 1: field 'text' is a whole number, expected a string"),
        ("dev.jsonl", [{"id": "a", "answers": None}], "dev.jsonl:1: field 'answers' is null, expected a list"),
        ("dev.jsonl", [SQUAD_ROWS[0], SQUAD_ROWS[1], SQUAD_ROWS[0]],
         "dev.jsonl:3: repeated id 'q1', first used at dev.jsonl:1 (1 repeated ids in total); "
         "keep one question per id"),
    ],
)  # fmt: skip
def test_bad_questions_are_one_clear_error(score, name, content, message):
    write("p.json", ANSWERS)
    assert score("squad", "p.json", write(name, content)) == (3, "", [message])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("na.json", '{"q1": NaN}', "na.json: id 'q1': found nan, expected a finite number"),
        ("na.json", '{"q1": -Infinity}', "na.json: id 'q1': found -inf, expected a finite number"),
        ("na.json", '{"q1": 1' + "0" * 400 + "}",
         "na.json: id 'q1': found 10000000000000000000, expected a finite number"),
        ("na.jsonl", [{"id": "q1", "na_prob": "0.5"}], "na.jsonl:1: id 'q1': found a string, expected a number"),
        ("na.jsonl", [{"id": "q1", "na_prob": True}], "na.jsonl:1: id 'q1': found true or false, expected a number"),
        ("na.jsonl", [{"id": "q1", "p": 1}],
         "na.jsonl:1: no field 'na_prob' or 'null_odds', found 'id', 'p'; "
         "add the field or correct its name"),
        ("na.json", {"x": 1},
         "na.json: no na_prob id matches a reference id: na_prob ids look like 'x', "
         "reference ids like 'q1'; check that the files belong together"),
        ("na.json", {"q1": 1}, "na.json: 2 questions with a prediction have no na_prob (first: 'q2'); "
         "provide na_prob for each, or score without na_probs"),
    ],
)  # fmt: skip
def test_bad_na_probs_are_one_clear_error(score, name, content, message):
    write("dev.jsonl", SQUAD_ROWS)
    write("p.json", ANSWERS)
    code, out, said = score("squad", "p.json", "dev.jsonl", "--na-prob", write(name, content))
    assert (code, out, said) == (3, "", [message])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0", "--na-prob-thresh 0 has nothing to be compared to: add --na-prob FILE, or remove it"),
        ("nan", "--na-prob-thresh nan: expected a number"),
    ],
)
def test_a_meaningless_threshold_is_a_usage_error(score, value, message):
    assert score("squad", "p.json", "dev.jsonl", "--na-prob-thresh", value) == (2, "", [message])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_answers_and_null_odds_in_a_table_score_as_in_json(score, suffix):
    """As `minilm predict` writes them: an answer that looks like a number is a text."""
    answers = {"q1": "Broncos", "q2": "10", "q3": ""}
    write("dev.jsonl", SQUAD_ROWS)
    write("p.json", answers)
    odds = {"q1": -12.5, "q2": 0.25, "q3": 3.0}
    write("na.json", odds)
    with writing_rows(Path(f"p{suffix}")) as write_rows:
        write_rows([{"id": key, "prediction": text, "null_odds": odds[key]} for key, text in answers.items()])
    expected = score("squad", "p.json", "dev.jsonl", "--na-prob", "na.json", "--json")
    assert expected[0] == 0
    assert score("squad", f"p{suffix}", "dev.jsonl", "--na-prob", f"p{suffix}", "--json") == expected


# --- GLUE ----------------------------------------------------------------------------------------


def test_glue_matches_whole_number_ids(score):
    write("dev.jsonl.gz", [{"idx": n, "label": n % 2, "sentence": "s"} for n in range(4)])
    write("p.jsonl", [{"id": str(n), "prediction": 1} for n in (3, 2, 1, 0)])
    assert score("glue", "p.jsonl", "dev.jsonl.gz", "--task", "mrpc") == (
        0,
        "accuracy  50.0000\nf1        66.6667\n",
        [],
    )


@pytest.mark.parametrize(
    ("task", "text", "predictions", "expected"),
    [
        ("rte", "index\tsentence1\tsentence2\tlabel\n4\ta\tb\tentailment\n7\ta\tb\tnot_entailment\n",
         {"4": "entailment", "7": "entailment"}, {"accuracy": 50.0}),
        ("cola", "gj04\t1\t\ta\ngj04\t0\t*\tb\n", {"0": "1", "1": "0"}, {"matthews_correlation": 100.0}),
        ("sts-b", "index\tsentence1\tsentence2\tscore\n0\ta\tb\t5.000\n1\ta\tb\t2.5\n2\ta\tb\t0.0\n",
         {"0": 3, "1": 2, "2": 1}, {"pearson": 100.0, "spearmanr": 100.0}),
    ],
)  # fmt: skip
def test_glue_references_may_be_the_official_file(score, task, text, predictions, expected):
    write("dev.tsv", text)
    write("p.json", predictions)
    code, out, said = score("glue", "p.json", "dev.tsv", "--task", task, "--json")
    assert (code, said) == (0, [])
    assert json.loads(out) == pytest.approx(expected)
    message = "dev.tsv: a .tsv is read as published: remove --id-field and --label-field"
    assert score("glue", "p.json", "dev.tsv", "--task", task, "--id-field", "id") == (2, "", [message])


def test_glue_fields_can_be_named(score):
    write("dev.jsonl", [{"id": 9, "guid": "a", "gold": "neutral", "label": "-"}])
    write("p.jsonl", [{"id": 9, "guid": "a", "prediction": "neutral"}])
    options = ["--task", "MNLI", "--id-field", "guid", "--label-field", "gold", "--json"]
    assert score("glue", "p.jsonl", "dev.jsonl", *options) == (0, '{"accuracy": 100.0}\n', [])


def test_glue_labels_match_without_regard_to_case_and_unnamed_ones_are_numbers(score):
    write("dev.jsonl", [{"id": 0, "label": "entailment"}, {"id": 1, "label": "neutral"}])
    write("p.jsonl", [{"id": 0, "prediction": "ENTAILMENT"}, {"id": 1, "prediction": "Neutral"}])
    assert score("glue", "p.jsonl", "dev.jsonl", "--task", "mnli", "--json") == (0, '{"accuracy": 100.0}\n', [])
    write("dev.jsonl", [{"id": 0, "label": 1}, {"id": 1, "label": "0"}])
    write("p.jsonl", [{"id": 0, "prediction": "LABEL_1"}, {"id": 1, "prediction": "LABEL_0"}])
    assert score("glue", "p.jsonl", "dev.jsonl", "--task", "sst-2", "--json") == (0, '{"accuracy": 100.0}\n', [])


def test_numbers_beside_names_are_read_in_a_stated_order(score):
    write("dev.jsonl", [{"idx": 0, "label": "contradiction"}, {"idx": 1, "label": "neutral"}])
    write("p.json", {"0": 0, "1": "1"})
    assert score("glue", "p.json", "dev.jsonl", "--task", "mnli", "--json") == (
        0,
        '{"accuracy": 50.0}\n',
        [
            "p.json: some labels in predictions and references are names and some are numbers; "
            "read as: 0 is contradiction, 1 is entailment, 2 is neutral"
        ],
    )


def test_missing_and_extra_labels_are_reported(score):
    write("dev.jsonl", [{"idx": n, "label": n % 2} for n in range(4)])
    write("p.json", {"0": 0, "1": 1, "x": 0})
    code, out, said = score("glue", "p.json", "dev.jsonl", "--task", "cola", "--json")
    assert (code, out) == (0, '{"matthews_correlation": 0.0}\n')
    assert said == [
        "p.json: 2 of 4 references have no prediction and count as wrong (first: '2')",
        "p.json: 1 prediction has no reference and will be ignored (first: 'x')",
    ]


def test_a_reference_out_of_range_is_rejected(score):
    write("dev.jsonl", [{"idx": 0, "score": 2.5}, {"idx": 1, "score": 7}])
    code, _, said = score("glue", write("p.json", {"0": 2.0, "1": 6.5}), "dev.jsonl", "--task", "sts-b")
    assert (code, len(said)) == (3, 1)
    assert said[0].startswith("dev.jsonl:2: ")
    assert "from 0 to 5" in said[0]


def test_an_undefined_correlation_is_null_in_json(score):
    write("dev.jsonl", [{"idx": n, "score": n / 2} for n in range(4)])
    write("p.json", dict.fromkeys("0123", 2.5))
    assert (
        score("glue", "p.json", "dev.jsonl", "--task", "sts-b", "--json")[1] == '{"pearson": null, "spearmanr": null}\n'
    )
    assert score("glue", "p.json", "dev.jsonl", "--task", "sts-b")[1] == "pearson    undefined\nspearmanr  undefined\n"


@pytest.mark.parametrize(
    ("task", "predictions", "code", "message"),
    [
        ("sts-b", {"0": 1}, 3,
         "p.json: 1 of 2 references have no prediction (first: '1'); a correlation needs a prediction for each"),
        ("sts-b", {"0": "1"}, 3, "p.json: id '0': found a string, expected a number"),
        ("cola", {"0": 0.5}, 3, "p.json: id '0': found label 0.5, expected one of 0, 1"),
        ("rte", {"0": "entails"}, 3,
         "p.json: id '0': found label 'entails', expected one of entailment, not_entailment, 0, 1"),
        ("boolq", {"0": 1}, 2,
         "unknown GLUE task 'boolq'; expected one of cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli"),
    ],
)  # fmt: skip
def test_bad_glue_predictions_are_one_clear_error(score, task, predictions, code, message):
    write("dev.jsonl", [{"idx": 0, "label": 0}, {"idx": 1, "label": 1}])
    assert score("glue", write("p.json", predictions), "dev.jsonl", "--task", task) == (code, "", [message])
