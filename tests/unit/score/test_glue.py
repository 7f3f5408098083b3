"""GLUE metrics: names, scale, degenerate cases; labels are read by name or number."""

from __future__ import annotations

import math
import warnings

import pytest

from minilm.errors import DataError, UsageError
from minilm.score.glue import GLUE_TASKS, Label, align, compute_metrics, glue_task, parse_label

NLI = GLUE_TASKS["mnli"].labels


def test_every_metric_is_times_100():
    labels, predictions = [1, 1, 0, 0], [1, 0, 0, 0]
    found = compute_metrics(("accuracy", "f1", "matthews_correlation"), labels, predictions)
    assert found == pytest.approx({"accuracy": 75, "f1": 200 / 3, "matthews_correlation": 100 / math.sqrt(3)})
    found = compute_metrics(("pearson", "spearmanr"), [0.0, 1.0, 2.0], [1.0, 2.0, 9.0])
    assert found == pytest.approx({"pearson": 100 * 8 / math.sqrt(2 * 38), "spearmanr": 100})


def test_f1_is_that_of_label_1():
    assert compute_metrics(("f1",), [0, 0, 0, 1], [0, 0, 0, 0]) == {"f1": 0.0}


@pytest.mark.parametrize("predictions", [[2.0, 2.0, 2.0], [1.0, math.nan, 2.0]], ids=["constant", "nan"])
def test_an_undefined_correlation_is_nan_and_quiet(predictions):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute_metrics(("pearson", "spearmanr"), [1.0, 2.0, 3.0], predictions)
    assert all(map(math.isnan, found.values()))


def test_a_correlation_of_one_pair_is_undefined():
    assert math.isnan(compute_metrics(("pearson",), [1.0], [2.0])["pearson"])


@pytest.mark.parametrize(("labels", "predictions"), [([], []), ([1], [1, 0])])
def test_unequal_or_no_rows_are_an_error(labels, predictions):
    with pytest.raises(DataError, match=r"^found \d labels and \d predictions; expected equal counts, at least 1$"):
        compute_metrics(("accuracy",), labels, predictions)


@pytest.mark.parametrize("name", ["sst-2", "SST-2", "sst2", "SST_2"])
def test_task_names_are_forgiving(name):
    assert glue_task(name) is GLUE_TASKS["sst-2"]


def test_an_unknown_task_is_a_usage_error():
    with pytest.raises(UsageError, match=r"^unknown GLUE task 'boolq'; expected one of cola, sst-2, .*, wnli$"):
        glue_task("boolq")


def test_each_task_has_the_metrics_of_the_papers():
    assert {name: task.metrics for name, task in GLUE_TASKS.items()} == {
        "cola": ("matthews_correlation",),
        **dict.fromkeys(("sst-2", "mnli", "qnli", "rte", "wnli"), ("accuracy",)),
        **dict.fromkeys(("mrpc", "qqp"), ("accuracy", "f1")),
        "sts-b": ("pearson", "spearmanr"),
    }


@pytest.mark.parametrize(
    ("value", "number", "named"),
    [
        *(("neutral", 2, True), ("Neutral", 2, True), ("CONTRADICTION", 0, True)),
        *((2, 2, False), ("2", 2, False), (2.0, 2, False), (0, 0, False), ("LABEL_1", 1, False), ("label_2", 2, False)),
    ],
)
def test_a_label_is_a_name_or_a_number(value, number, named):
    assert parse_label(value, NLI) == Label(number=number, named=named)


def test_the_unnamed_labels_of_transformers_are_numbers_also_where_names_are():
    assert parse_label("LABEL_1", ("0", "1")) == Label(number=1, named=False)
    assert parse_label(1, ("LABEL_0", "LABEL_1")) == parse_label("1", ("LABEL_0", "LABEL_1"))


def test_case_decides_only_between_names_that_differ_in_nothing_else():
    assert [parse_label(value, ("US", "us")).number for value in ("US", "us")] == [0, 1]
    with pytest.raises(ValueError, match=r"^found label 'Us', expected one of US, us, 0, 1$"):
        parse_label("Us", ("US", "us"))


@pytest.mark.parametrize(
    "value", ["Neutral.", "LABEL_3", "LABEL_", "-", "", 3, -1, "-1", 0.5, math.nan, True, None, [0], "²", "9" * 99]
)
def test_any_other_label_is_rejected(value):
    with pytest.raises(
        ValueError, match=r"^found label .*, expected one of contradiction, entailment, neutral, 0, 1, 2$"
    ):
        parse_label(value, NLI)


def test_numbers_that_are_names_are_listed_once():
    with pytest.raises(ValueError, match=r"^found label 2, expected one of 0, 1$"):
        parse_label(2, ("0", "1"))


def labels(**numbers: float) -> dict[str, Label]:
    return {key: Label(number=number, named=False) for key, number in numbers.items()}


@pytest.mark.parametrize("num_labels", [2, 3])
def test_a_missing_label_becomes_a_wrong_one(num_labels):
    right, found = align(labels(a=0, b=1, c=1), labels(c=1, x=0), num_labels=num_labels)
    assert right == [0, 1, 1]
    assert found[0] != 0
    assert found[1] != 1
    assert found[2] == 1
    assert set(found) <= set(range(num_labels))


def test_a_missing_number_is_an_error():
    with pytest.raises(DataError) as caught:
        align(labels(a=0.5, b=2.5, c=1.0), labels(a=1.0), num_labels=0)
    assert str(caught.value) == (
        "2 of 3 references have no prediction (first: 'b'); a correlation needs a prediction for each"
    )
