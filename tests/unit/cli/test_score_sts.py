"""`minilm score sts`: the correlations of scipy from every format, by id or by position, and one error per mistake."""

from __future__ import annotations

import gzip
import json
import random
from functools import partial
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def score(score):
    """`score(predictions, references, *options)` for this kind."""
    return partial(score, "sts")


def write(name: str, text: str) -> str:
    data = text.encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return name


def jsonl(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


draw = random.Random(1)
GOLD = [round(5 * draw.random(), 1) for _ in range(20)]
FOUND = [value / 5 + draw.random() / 2 for value in GOLD]
SHUFFLED = draw.sample(range(20), 20)
PREDICTIONS = {
    "p.txt": "".join(f"{value}\n" for value in FOUND),
    "p.scores.gz": "".join(f"{value}\n" for value in FOUND),
    "p.jsonl": jsonl([{"id": f"n{n}", "prediction": FOUND[n]} for n in SHUFFLED]),
    "p.csv": "idx,score\n" + "".join(f"n{n},{FOUND[n]}\n" for n in SHUFFLED),
    "p.json": json.dumps({f"n{n}": FOUND[n] for n in SHUFFLED}),
    "order.jsonl": jsonl([{"prediction": value} for value in FOUND]),
}
REFERENCES = {
    "r.jsonl": jsonl([{"idx": f"n{n}", "text": "x", "score": value} for n, value in enumerate(GOLD)]),
    "r.tsv": "index\tlabel\n" + "".join(f"n{n}\t{value}\n" for n, value in enumerate(GOLD)),
}


@pytest.mark.parametrize("predictions", PREDICTIONS)
@pytest.mark.parametrize("references", REFERENCES)
def test_numbers_are_those_of_scipy_by_id_or_by_position(score, predictions, references):
    stats = pytest.importorskip("scipy.stats", reason="needs scipy: pip install 'minilm[dev]'")
    code, out, said = score(
        write(predictions, PREDICTIONS[predictions]), write(references, REFERENCES[references]), "--json"
    )
    assert (code, said) == (0, [])
    assert json.loads(out) == pytest.approx(
        {
            "spearmanr": 100 * stats.spearmanr(GOLD, FOUND).statistic,
            "pearson": 100 * stats.pearsonr(GOLD, FOUND).statistic,
            "total": 20,
        }
    )


def test_the_table_and_named_columns(score):
    write("p.csv", "pair_ID,prediction\n1,.5\n2,1\n9,0\n")
    write("r.tsv", "pair_ID\trelatedness_score\n2\t4.5\n1\t3\n")
    columns = ["--id-field", "pair_ID", "--label-field", "relatedness_score"]
    assert score("p.csv", "r.tsv", *columns) == (
        0,
        "spearmanr  100.0000\npearson    100.0000\ntotal             2\n",
        ["p.csv: 1 prediction has no reference and will be ignored (first: '9')"],
    )


def test_ids_on_one_side_only_do_not_reorder(score):
    """Ids that are numbers in another order must not be taken for the positions of the other file."""
    write("p.txt", "0\n1\n2\n")
    write("r.csv", "id,score\n2,0\n0,1\n1,3\n")
    assert json.loads(score("p.txt", "r.csv", "--json")[1])["spearmanr"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("given", "right", "options", "code", "message"),
    [
        (
            "1\n1\n1\n",
            "1\n2\n3\n",
            [],
            3,
            "p.txt: found 3 equal numbers; a correlation needs at least two different ones",
        ),
        ("1\n2\n", "0\n0\n", [], 3, "r.txt: found 2 equal numbers; a correlation needs at least two different ones"),
        ("1\n", "2\n", [], 3, "p.txt: found a single number, 1; a correlation needs at least two different ones"),
        (
            "1\n2\n",
            "1\n2\n3\n",
            [],
            3,
            "p.txt holds 2 predictions and r.txt holds 3 references; expected the same number, since not both have "
            "ids: check that the files belong together",
        ),
        ("1\nnan\n", "1\n2\n", [], 3, "p.txt:2: found nan, expected a finite number"),
        ("1\ntwo\n", "1\n2\n", [], 3, "p.txt:2: found 'two', expected a number"),
        ("1\n\n", "1\n2\n", [], 3, "p.txt:2: found '', expected a number"),
        ("", "1\n2\n", [], 3, "p.txt: the file is empty; expected at least one "),
        (
            "1\n2\n",
            "1\n2\n",
            ["--id-field", "pair"],
            2,
            "--id-field pair: p.txt has no such column; correct the name, or remove the flag to match numbers by "
            "position",
        ),
    ],
)
def test_mistakes(score, given, right, options, code, message):
    found, out, said = score(write("p.txt", given), write("r.txt", right), *options)
    assert (found, out) == (code, "")
    assert said[-1].startswith(message)


def test_mistakes_in_rows(score):
    references = write("r.jsonl", jsonl([{"id": "a", "score": 1}, {"id": "b", "score": 2}]))
    for rows, message in (
        (
            [{"id": "a", "prediction": 1}],
            "p.jsonl: 1 of 2 references have no prediction (first: 'b'); a correlation needs a prediction for each",
        ),
        (
            [{"id": "a", "prediction": 1}, {"id": "a", "prediction": 1}],
            "p.jsonl:2: id 'a' is already in p.jsonl:1 (1 repeated ids in all); keep one of each",
        ),
        (
            [{"id": "a", "prediction": None}],
            "p.jsonl:1: id 'a': found null, expected a number",
        ),
        (
            [{"id": "a", "cosine": 1}],
            "p.jsonl:1: no field 'prediction' or 'score', found 'id', 'cosine'; add the field or correct its name",
        ),
        (
            [{"id": "x", "prediction": 1}],
            "p.jsonl: no prediction id matches a reference id: prediction ids look like 'x', reference ids like 'a'; "
            "check that the files belong together",
        ),
    ):
        assert score(write("p.jsonl", jsonl(rows)), references) == (3, "", [message])
