"""Entities and their scores are those of seqeval, default and strict, for any tags."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.score.entities import METRICS, Span, entity_averages, entity_metrics, entity_rows, entity_spans

IOB = [f"{prefix}-{kind}" for prefix in "BI" for kind in ("PER", "LOC", "A-B")] + ["O"]
IOBES = [*IOB, "E-PER", "S-PER", "E-LOC", "S-LOC"]


def sides(tags: list[str]) -> st.SearchStrategy[list[list[tuple[str, str]]]]:
    """Sentences of pairs: gold tag, predicted tag."""
    return st.lists(
        st.lists(st.tuples(st.sampled_from(tags), st.sampled_from(tags)), min_size=1, max_size=9), min_size=1
    )


def split(sentences: list[list[tuple[str, str]]]) -> tuple[list[list[str]], list[list[str]]]:
    return [[gold for gold, _ in one] for one in sentences], [[found for _, found in one] for one in sentences]


@pytest.fixture(scope="module")
def seqeval():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("seqeval", reason="needs seqeval: pip install 'minilm[dev]'")


@pytest.mark.slow
@given(sides(IOBES))
def test_default_entities_and_numbers_are_those_of_seqeval(seqeval, sentences):
    from seqeval import metrics
    from seqeval.metrics.sequence_labeling import get_entities

    gold, found = split(sentences)
    for tags in gold:
        assert [(one.type, one.start, one.end - 1) for one in entity_spans(tags)] == get_entities(tags)
    ours = entity_metrics(gold, found)
    for name in ("precision", "recall", "f1"):
        theirs = getattr(metrics, f"{name}_score")(gold, found, zero_division=0)
        assert ours[name] == pytest.approx(100 * theirs)
    assert ours["accuracy"] == pytest.approx(100 * metrics.accuracy_score(gold, found))
    assert tuple(ours) == METRICS


@pytest.mark.slow
@given(sides(IOB))
def test_strict_numbers_are_those_of_seqeval_in_iob2(seqeval, sentences):
    from seqeval import metrics
    from seqeval.scheme import IOB2

    gold, found = split(sentences)
    ours = entity_metrics(gold, found)
    for name in ("precision", "recall", "f1"):
        theirs = getattr(metrics, f"{name}_score")(gold, found, mode="strict", scheme=IOB2, zero_division=0)
        assert ours[f"strict_{name}"] == pytest.approx(100 * theirs)


@pytest.mark.slow
@given(sides(IOB))
def test_each_type_has_the_row_of_seqevals_report(seqeval, sentences):
    from seqeval import metrics
    from seqeval.scheme import IOB2

    gold, found = split(sentences)
    report = (
        metrics.classification_report(gold, found, output_dict=True, zero_division=0) if any_entity(gold, found) else {}
    )
    rows = {row["type"]: row for row in entity_rows(gold, found)}
    averages = [rows.pop(f"{name} average") for name in ("micro", "macro", "weighted")]
    assert set(rows) == {name for name in report if not name.endswith(" avg")}
    strict = any(entity_spans(tags, strict=True) for side in (gold, found) for tags in side)
    in_strict = (
        metrics.classification_report(gold, found, output_dict=True, zero_division=0, mode="strict", scheme=IOB2)
        if strict
        else {}
    )
    numbers = entity_averages(gold, found)
    for row in (*rows.values(), *averages):
        name = row["type"].replace("average", "avg")
        nothing = {"support": 0, "precision": 0, "recall": 0, "f1-score": 0}
        expected, expected_strict = report.get(name, nothing), in_strict.get(name, nothing)
        assert row["references"] == expected["support"]
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert row[ours] == pytest.approx(100 * expected[theirs])
            assert row[f"strict {ours}"] == pytest.approx(100 * expected_strict[theirs])
            if name in ("macro avg", "weighted avg"):
                assert numbers[f"{name[:-4]}_{ours}"] == row[ours]
                assert numbers[f"strict_{name[:-4]}_{ours}"] == row[f"strict {ours}"]


def any_entity(*sides: list[list[str]]) -> bool:
    return any(tag != "O" for side in sides for tags in side for tag in tags)


def test_default_and_strict_differ_where_an_entity_has_no_beginning():
    tags = ["I-PER", "O", "B-LOC", "I-PER", "I-PER"]
    assert entity_spans(tags) == [
        Span(type="PER", start=0, end=1),
        Span(type="LOC", start=2, end=3),
        Span(type="PER", start=3, end=5),
    ]
    assert entity_spans(tags, strict=True) == [Span(type="LOC", start=2, end=3)]
    numbers = entity_metrics([["B-PER", "O"]], [["I-PER", "O"]])
    assert (numbers["f1"], numbers["strict_f1"], numbers["accuracy"]) == (100, 0, 50)


def test_no_entity_on_either_side_scores_zero():
    assert entity_metrics([["O"]], [["O"]]) == {**dict.fromkeys(METRICS, 0), "accuracy": 100}
