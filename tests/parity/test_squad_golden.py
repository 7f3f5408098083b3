"""Proves that SQuAD scores equal the official script's to the last bit, and the published tables to all digits."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from minilm.files.by_id import as_number, read_by_id
from minilm.files.fields import as_text
from minilm.score.squad import SquadReference, squad_metrics, threshold_curve
from minilm.tasks.squad.read import read_squad_references

OPTIONS = ("plain", "-n na_prob.json", "-n na_prob.json -t 0.5", "-n null_odds.json -t 0.0", "-n null_odds.json")
MISSING = "every 10th prediction missing"
# exact, f1, then the same of HasAns and NoAns, as shared/data/README.md prints them
PUBLISHED = {
    "v2.0_bert_single": "78.7417 81.7753 74.1059 80.1818 83.3642 83.3642",
    "v2.0_bidaf_sa_elmo": "65.7037 67.8765 61.4204 65.7722 69.9748 69.9748",
    "v1.1_bert_ensemble": "86.2062 92.1956",
    "v1.1_match_lstm": "67.6348 76.7556",
}


@pytest.fixture(scope="module")
def questions(data_dir: Path) -> list[SquadReference]:
    return read_squad_references(data_dir / "squad" / "dev-v2.0.jsonl.gz")


@pytest.fixture(scope="module")
def answers(golden_dir: Path) -> dict[str, str]:
    return read_by_id(golden_dir / "squad" / "predictions.json", as_text, fields=("prediction",))


def numbers(golden_dir: Path, name: str) -> dict[str, float]:
    return read_by_id(golden_dir / "squad" / name, as_number, fields=("na_prob",))


def arguments(golden_dir: Path, options: str) -> dict[str, object]:
    words = [] if options == "plain" else shlex.split(options)
    given = dict(zip(words[::2], words[1::2], strict=True))
    found: dict[str, object] = {}
    if "-n" in given:
        found["na_probs"] = numbers(golden_dir, given["-n"])
    if "-t" in given:
        found["na_prob_threshold"] = float(given["-t"])
    return found


def test_every_stored_case_is_tested(golden_dir):
    stored = json.loads((golden_dir / "squad" / "official_eval.json").read_text())
    assert {name for name in stored if not name.startswith(MISSING)} == set(OPTIONS)


@pytest.mark.parametrize("options", OPTIONS)
def test_scores_equal_the_official_script(golden_dir, questions, answers, options):
    """Keys, their order, and values to the last bit; ties in na_prob are resolved in file order."""
    stored = json.loads((golden_dir / "squad" / "official_eval.json").read_text())[options]
    found = squad_metrics(questions, answers, **arguments(golden_dir, options))
    assert list(found.items()) == list(stored.items())


def test_missing_predictions_are_scored_as_wrong(golden_dir, questions, answers):
    """The official script stops with a KeyError there; ours counts exactly the remaining questions."""
    kept = {key: text for number, (key, text) in enumerate(answers.items()) if number % 10}
    found = squad_metrics(questions, kept, na_probs=numbers(golden_dir, "na_prob.json"))
    scored = squad_metrics([one for one in questions if one.id in kept], kept)
    assert found["total"] == len(questions)
    assert found["exact"] == pytest.approx(scored["exact"] * len(kept) / len(questions))


def test_the_curve_contains_the_score_of_any_threshold(golden_dir, questions, answers):
    null_odds = numbers(golden_dir, "null_odds.json")
    curve = threshold_curve(questions, answers, null_odds)
    assert [point.threshold for point in curve] == sorted(set(null_odds.values()))
    for threshold in (-10.7329, 0.0, 1.0):
        point = [point for point in curve if point.threshold <= threshold][-1]
        scores = squad_metrics(questions, answers, na_probs=null_odds, na_prob_threshold=threshold)
        assert (point.exact, point.f1) == pytest.approx((scores["exact"], scores["f1"]), abs=1e-9)


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_predictions_have_their_published_scores(data_dir, name):
    squad = data_dir / "squad"
    texts = read_by_id(squad / "predictions" / f"{name}.jsonl.gz", as_text, fields=("prediction",))
    found = squad_metrics(read_squad_references(squad / f"dev-{name.partition('_')[0]}.jsonl.gz"), texts)
    keys = ["exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"]
    digits = PUBLISHED[name].split()
    assert [f"{found[key]:.4f}" for key in keys[: len(digits)]] == digits


def test_the_official_nesting_and_rows_are_the_same_questions(data_dir):
    rows = read_squad_references(data_dir / "squad" / "train-v2.0_subset.jsonl.gz")
    nested = read_squad_references(data_dir / "official_layout" / "squad" / "train-v2.0_subset.json.gz")
    assert len(nested) == 4719
    assert {one.id: one for one in nested} == {one.id: one for one in rows}
