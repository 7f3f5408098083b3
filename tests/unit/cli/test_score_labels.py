"""`minilm score text`: the numbers of scikit-learn and scipy for own labels, from every format, or one clear error."""

from __future__ import annotations

import csv
import io
import json
import random
from functools import partial
from pathlib import Path

import pytest

LABELS = ("bad", "fair", "good")

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def score(score):
    """`score(predictions, references, *options)` for this kind."""
    return partial(score, "text")


def write(name: str, rows: list[dict[str, object]]) -> str:
    """Write rows in the format of the name; lists in tables of text are JSON."""
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), name)
    elif name.endswith((".csv", ".tsv")):
        cells = [{key: json.dumps(one) if isinstance(one, list) else one for key, one in row.items()} for row in rows]
        with Path(name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(cells)
    else:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def sides(found: list[object], gold: list[object]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Rows of predictions, in another order, and of references."""
    given = [{"id": f"n{number}", "prediction": value} for number, value in enumerate(found)]
    return given[::-1], [{"id": f"n{number}", "text": "x", "label": value} for number, value in enumerate(gold)]


def drawn(names: tuple[str, ...], seed: int) -> list[str]:
    return random.Random(seed).choices(names, k=40)


FORMATS = [("p.jsonl", "r.jsonl"), ("p.csv", "r.csv"), ("p.tsv", "r.tsv"), ("p.parquet", "r.parquet")]


@pytest.mark.parametrize(("predictions", "references"), FORMATS)
@pytest.mark.parametrize("options", [[], ["--labels", "bad,fair,good"]])
def test_numbers_are_those_of_scikit_learn_from_every_format(score, predictions, references, options):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'minilm[dev]'")
    found, gold = drawn(LABELS, 1), drawn(LABELS, 2)
    given, right = sides(found, gold)
    code, out, said = score(write(predictions, given), write(references, right), "--json", *options)
    assert (code, said) == (0, [])
    numbers = json.loads(out)
    expected = metrics.classification_report(gold, found, output_dict=True, zero_division=0)
    assert numbers["accuracy"] == pytest.approx(100 * metrics.accuracy_score(gold, found))
    assert numbers["matthews_correlation"] == pytest.approx(100 * metrics.matthews_corrcoef(gold, found))
    for average in ("macro", "weighted"):
        for rate, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert numbers[f"{average}_{rate}"] == pytest.approx(100 * expected[f"{average} avg"][theirs])
    assert numbers["micro_f1"] == pytest.approx(numbers["accuracy"])
    for name in LABELS:
        own = numbers["labels"][name]
        assert own["f1"] == pytest.approx(100 * expected[name]["f1-score"])
        assert (own["references"], own["predictions"]) == (gold.count(name), found.count(name))
    matrix = metrics.confusion_matrix(gold, found, labels=LABELS).tolist()
    assert [list(row.values()) for row in numbers["confusion_matrix"].values()] == matrix
    assert numbers["total"] == 40
    assert "positive" not in numbers


def test_of_two_labels_the_second_is_positive_and_named(score):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'minilm[dev]'")
    found, gold = drawn(("yes", "no"), 1), drawn(("yes", "no"), 2)
    given, right = sides(found, gold)
    files = write("p.jsonl", given), write("r.jsonl", right)
    for options, positive in (([], "yes"), (["--labels", "yes, no"], "no")):
        numbers = json.loads(score(*files, "--json", *options)[1])
        assert numbers["positive"] == positive
        assert numbers["f1"] == pytest.approx(100 * metrics.f1_score(gold, found, pos_label=positive))
        assert numbers["f1"] == numbers["labels"][positive]["f1"]


@pytest.mark.parametrize(("predictions", "references"), FORMATS)
def test_numbers_have_the_correlations_of_scipy(score, predictions, references):
    stats = pytest.importorskip("scipy.stats", reason="needs scipy: pip install 'minilm[dev]'")
    draw = random.Random(3)
    gold = [draw.random() for _ in range(20)]
    found = [round(value + draw.random() / 2, 1) for value in gold]
    given, right = sides(found, gold)
    code, out, said = score(write(predictions, given), write(references, right), "--regression", "--json")
    assert (code, said) == (0, [])
    assert json.loads(out) == pytest.approx(
        {
            "pearson": 100 * stats.pearsonr(gold, found).statistic,
            "spearmanr": 100 * stats.spearmanr(gold, found).statistic,
            "total": 20,
        }
    )


@pytest.mark.parametrize("predictions", ["p.jsonl", "p.csv", "p.parquet"])
@pytest.mark.parametrize("references", ["r.jsonl", "r.parquet", "flags.csv"])
def test_sets_of_labels_have_the_numbers_of_scikit_learn(score, predictions, references):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'minilm[dev]'")
    draw = random.Random(4)
    flags = [[[draw.random() < 0.4 for _ in LABELS] for _ in range(30)] for _ in range(2)]
    found, gold = [[[n for n, has in zip(LABELS, row, strict=True) if has] for row in side] for side in flags]
    given, right = sides(found, gold)
    if references == "flags.csv":
        right = [{"id": row["id"], **{name: int(name in row["label"]) for name in LABELS}} for row in right]
    files = write(predictions, given), write(references, right)
    code, out, said = score(*files, "--multi-label", "--labels", ",".join(LABELS), "--json")
    assert (code, said) == (0, [])
    numbers = json.loads(out)
    assert numbers["accuracy"] == pytest.approx(100 * metrics.accuracy_score(flags[1], flags[0]))
    for average in ("micro", "macro", "weighted"):
        *expected, _ = metrics.precision_recall_fscore_support(flags[1], flags[0], average=average, zero_division=0)
        rates = [numbers[f"{average}_{rate}"] for rate in ("precision", "recall", "f1")]
        assert rates == pytest.approx([100 * value for value in expected])
    each = 100 * metrics.f1_score(flags[1], flags[0], average=None, zero_division=0)
    assert [numbers["labels"][name]["f1"] for name in LABELS] == pytest.approx(each)
    assert "confusion_matrix" not in numbers


def test_sets_need_no_list_of_labels_and_a_missing_one_is_wrong(score):
    given, right = sides([["b"], [], ["a", "b"]], [["b"], [], ["a"]])
    del given[1]  # of an example without labels
    code, out, said = score(write("p.jsonl", given), write("r.jsonl", right), "--multi-label", "--json")
    assert said == ["p.jsonl: 1 of 3 references have no prediction and count as wrong (first: 'n1')"]
    numbers = json.loads(out)
    assert (code, list(numbers["labels"])) == (0, ["a", "b"])
    assert numbers["accuracy"] == pytest.approx(100 / 3)


def test_columns_of_0_and_1_are_named_with_the_flag_that_lists_them(score):
    write("r.csv", [{"id": "n0", "text": "x", "rude": 1, "spam": 0}])
    write("p.jsonl", sides([["rude"]], [[]])[0])
    code, _, [said] = score("p.jsonl", "r.csv", "--multi-label")
    assert code == 3
    assert said.endswith('name the file\'s own columns, for example --labels "rude,spam", or rename them')
    assert score("p.jsonl", "r.csv", "--multi-label", "--labels", "rude,spam")[0] == 0


def test_a_missing_prediction_counts_against_recall_and_not_against_precision(score):
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install 'minilm[dev]'")
    given, right = sides(["bad", "good"], ["bad", "good", "good"])
    given.append({"id": "z", "prediction": "bad"})
    code, out, said = score(write("p.jsonl", given), write("r.jsonl", right))
    assert said == [
        "p.jsonl: 1 of 3 references have no prediction and count as wrong (first: 'n2')",
        "p.jsonl: 1 prediction has no reference and will be ignored (first: 'z')",
    ]
    assert code == 0
    assert out.splitlines() == [
        "accuracy              66.6667",
        f"matthews_correlation  {100 * metrics.matthews_corrcoef([*'bgg'], [*'bg-']):.4f}",
        "f1                    66.6667",
        "positive                 good",
        "total                       3",
        "",
        "label             precision    recall        f1  references  predictions",
        "bad                100.0000  100.0000  100.0000           1            1",
        "good               100.0000   50.0000   66.6667           2            1",
        "micro average      100.0000   66.6667   80.0000           3            2",
        "macro average      100.0000   75.0000   83.3333           3            2",
        "weighted average   100.0000   66.6667   77.7778           3            2",
        "",
        "reference \\ prediction  bad  good  (no prediction)",
        "bad                       1     0                0",
        "good                      0     1                1",
    ]


@pytest.mark.parametrize("side", ["predictions", "references"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_one_side_may_be_standard_input(score, monkeypatch, side, name):
    given, right = sides(["a", "b", "b"], ["a", "b", "a"])
    files = {"predictions": write("p.jsonl", given), "references": write("r.jsonl", right)}
    write(name, given if side == "predictions" else right)
    files[side] = "-"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(Path(name).read_bytes()))))
    options = [] if name == "x.jsonl" else ["--input-format", "csv"]
    code, out, said = score(*files.values(), "--json", *options)
    assert (code, said) == (0, [])
    assert json.loads(out)["accuracy"] == pytest.approx(200 / 3)
    message = "--predictions and --references are both -, but standard input can be read only once; name a file"
    assert score("-", "-") == (2, "", [message])


def recipe(**task: object) -> str:
    values = {"kind": "text", "name": "own", "train": ["train.csv"], **task}
    whole = {"kind": "finetune", "name": "own", "out": "run", "model": "teacher", "task": values, "train": {}}
    Path("own.yaml").write_text(json.dumps(whole))
    return "own.yaml"


def test_columns_and_labels_are_those_of_a_recipe(score):
    """What `minilm predict` writes for a file whose id has its own name has the name `id`."""
    write("r.csv", [{"number": n, "body": "x", "stars": stars} for n, stars in enumerate([1, 5, 3, 3])])
    write("p.jsonl", [{"id": str(n), "prediction": name} for n, name in enumerate(["1", "5", "5", "3"])])
    task = recipe(text="body", label="stars", id="number", labels=["1", "2", "3", "5"])
    code, out, said = score("p.jsonl", "r.csv", "--task", task, "--json")
    numbers = json.loads(out)
    assert (code, said, numbers["accuracy"]) == (0, [], 75)
    assert numbers["labels"]["2"] == {"precision": 0, "recall": 0, "f1": 0, "references": 0, "predictions": 0}
    assert numbers["macro_f1"] == pytest.approx((100 + 0 + 200 / 3 + 200 / 3) / 4)
    write("p.jsonl", [{"id": str(n), "prediction": 4.5 - n} for n in range(4)])
    task = recipe(text="body", label="stars", id="number", regression=True)
    assert set(json.loads(score("p.jsonl", "r.csv", "--task", task, "--json")[1])) == {"pearson", "spearmanr", "total"}


def test_rows_without_ids_are_numbered_as_in_prediction(score):
    write("r.csv", [{"text": "x", "label": name} for name in ("a", "b", "b")])
    write("p.jsonl", [{"id": "2", "prediction": "b"}, {"id": "0", "prediction": "a"}, {"id": "1", "prediction": "a"}])
    assert json.loads(score("p.jsonl", "r.csv", "--json")[1])["accuracy"] == pytest.approx(200 / 3)


def test_numbers_in_place_of_labels_are_reported(score):
    given, right = sides([0, "GOOD"], ["bad", "good"])
    code, out, said = score(write("p.jsonl", given), write("r.jsonl", right), "--labels", "bad,good", "--json")
    assert (code, json.loads(out)["accuracy"]) == (0, 100)
    assert said == [
        "1 labels were matched without regard to case (first: p.jsonl: label 'GOOD')",
        "1 labels are numbers, read as: 0 is bad, 1 is good (first: p.jsonl: label '0')",
    ]


def test_a_large_confusion_matrix_is_left_to_json(score):
    names = [f"c{number:02}" for number in range(41)]
    files = [write(name, rows) for name, rows in zip(("p.jsonl", "r.jsonl"), sides(names, names), strict=True)]
    assert score(*files)[1].endswith("\n\nthe confusion matrix of 41 labels is only in the output of --json\n")
    assert len(json.loads(score(*files, "--json")[1])["confusion_matrix"]) == 41


OK = {"id": "a", "prediction": "x"}
RIGHT = {"id": "a", "label": "x"}


@pytest.mark.parametrize(
    ("predictions", "references", "options", "message"),
    [
        ([OK], [{"id": "a", "label": None}], [],
         "r.jsonl:1: column 'label': found null, expected a label; correct the row"),
        ([OK], [RIGHT, {"id": "b", "label": "z"}], ["--labels", "x,y"],
         "r.jsonl:2: column 'label': found label 'z', expected one of x, y, 0, 1; correct the row"),
        ([OK], [RIGHT, RIGHT], [],
         "r.jsonl:2: column 'id': id 'a' is already at r.jsonl:1; correct the row, or name another id column"),
        ([OK], [RIGHT, {"label": "x"}], [],
         "r.jsonl:2: column 'id' is missing or null, expected a text or a whole number; correct the row, or name "
         "another id column"),
        ([OK], [{"id": "a", "stars": 1}], [],
         "r.jsonl:1: task 'text' expects the columns 'label', found 'id', 'stars'; name the file's own columns, "
         "for example --label-field stars, or rename them"),
        ([OK, {"id": "a", "prediction": "y"}], [RIGHT], [],
         "p.jsonl:2: id 'a' is already in p.jsonl:1 with another value (1 repeated ids in all); keep one of each"),
        ([{"id": "a", "prediction": "z"}], [RIGHT], ["--labels", "x,y"],
         "p.jsonl:1: id 'a': found label 'z', expected one of x, y, 0, 1"),
        ([{"id": "a", "prediction": ["x"]}], [RIGHT], [],
         "p.jsonl:1: id 'a': found a list, expected a label; for several labels per text, add --multi-label"),
        ([{"id": "a", "prediction": []}], [{"id": "a", "label": []}], ["--multi-label"],
         "r.jsonl: no row has a label, nor has a prediction; list the labels with --labels"),
        ([OK], [{"id": "b", "label": "x"}], [],
         "p.jsonl: no prediction id matches a reference id: prediction ids look like 'a', reference ids like 'b'; "
         "check that the files belong together"),
        ([{"id": "a", "prediction": 1.5}], [{"id": "a", "label": 1}, {"id": "b", "label": 2}], ["--regression"],
         "p.jsonl: 1 of 2 references have no prediction (first: 'b'); a correlation needs a prediction for each"),
    ],
)  # fmt: skip
def test_the_first_bad_row_is_one_clear_error(score, predictions, references, options, message):
    assert score(write("p.jsonl", predictions), write("r.jsonl", references), *options) == (3, "", [message])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "a,,b"], "--labels a,,b: expected different names, separated by commas"),
        (["--task", "own.yaml", "--labels", "a"],
         "--labels is part of the task in own.yaml: remove the flag, or --task"),
        (["--multi-label", "--regression"],
         "found multi_label and regression both true; a task is one of them: set one to false"),
        (["--task", "squad2-in-house-l6"], "squad2-in-house-l6: task.kind is 'squad', expected 'text'"),
        (["--input-format", "csv"],
         "--input-format csv is for standard input, -; p.jsonl has the format of its name: remove it"),
    ],
)  # fmt: skip
def test_flags_that_contradict_are_rejected(score, options, message):
    recipe()
    files = write("p.jsonl", [OK]), write("r.jsonl", [RIGHT])
    assert score(*files, *options) == (2, "", [message])


def test_decimals_need_the_flag_for_numbers(score):
    given, right = sides([0.5, 1.5], [1, 2])
    code, _, said = score(write("p.jsonl", given), write("r.jsonl", right))
    assert code == 2
    assert said == [
        "p.jsonl: found label '1.5', a number with decimals: to predict numbers set task.regression to true, else list "
        "the labels in task.labels (score text: --regression, --labels)"
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"), [(("True", "False"), ("true", "false")), (("caf\u00e9", "b"), ("cafe\u0301", "b"))]
)
def test_labels_that_differ_only_in_form_are_not_scored_as_wrong(score, theirs, ours):
    write("r.csv", [{"id": str(n), "label": theirs[n % 2]} for n in range(4)])
    write("p.jsonl", [{"id": str(n), "prediction": ours[n % 2]} for n in range(4)])
    code, out, said = score("p.jsonl", "r.csv")
    assert (code, out) == (3, "")
    assert "which differ only in case, spaces or the form of their letters: make them agree" in said[0]
