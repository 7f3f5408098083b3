"""`minilm score retrieval`: table, JSON, signatures, intervals; what is reported, and one clear error per mistake."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from minilm import __version__
from minilm.cli.score_retrieval import _Metrics
from minilm.score.retrieval import DEFAULT_METRICS

RUN = "1 Q0 a 1 0.9 t\n1 Q0 b 2 0.8 t\n2 Q0 a 1 0.7 t\n2 Q0 c 2 0.9 t\n"
QRELS = "1 0 b 1\n2 0 c 2\n2 0 a 1\n"
SIGNATURE = (
    f"minilm:{__version__}|as:trec_eval 9, {{}}|gain:{{}}|ties:score in single precision, then id, both descending"
)

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def score(score):
    """`score(run, judgments, *options)` of two texts in TREC's columns."""

    def of_texts(run: str, judgments: str, *options: str) -> tuple[int, str, list[str]]:
        Path("run").write_text(run)
        Path("qrels").write_text(judgments)
        return partial(score, "retrieval")("run", "qrels", *options)

    return of_texts


def test_the_table(score):
    assert score(RUN, QRELS, "--metric", "mrr@10", "--metric", "MAP", "--metric", "mrr@10") == (
        0,
        "         score\n"
        "mrr@10  0.7500\n"
        "map     0.7500\n"
        "\n"
        f"mrr@10: {SIGNATURE.format('recip_rank of the first 10', 'grade')}|queries:2, 0 without results\n"
        f"map: {SIGNATURE.format('map', 'grade')}|queries:2, 0 without results\n",
        [],
    )


def test_json_holds_everything_and_the_default_metrics(score):
    code, out, said = score(RUN, QRELS, "--json", "--confidence")
    found = json.loads(out)
    names = ["ndcg@10", "mrr@10", "map", "recall@100", "precision@10"]
    assert (code, said) == (0, [])
    assert [found[name] for name in names[1:]] == pytest.approx([0.75, 0.75, 1, 0.15])
    assert list(found["signature"]) == list(found["confidence"]) == names
    assert found["confidence"]["mrr@10"] == [0.5, 1.0]
    assert (found["queries"], found["queries_without_results"]) == (2, 0)


def test_the_help_names_the_default_metrics():
    """The command starts without numpy, so its help cannot take them from the room that has it."""
    assert get_args(_Metrics)[1].show_default == ", ".join(DEFAULT_METRICS)


def test_gains_change_which_document_is_best(score):
    """Cranfield grades from 1, the best, to 4; grade -1 is left out, and reported."""
    judgments = "1 0 a 4\n1 0 b 1\n1 0 c -1\n"
    code, out, said = score(RUN, judgments, "--gains", "1=4,2=3,3=2,4=1", "--metric", "ndcg@1", "--json")
    found = json.loads(out)
    assert (code, found["ndcg@1"]) == (0, 1 / 4 / 1)
    assert "|gain:1=4,2=3,3=2,4=1|" in found["signature"]["ndcg@1"]
    assert said == [
        "qrels:3: 1 of 3 judgments have a negative grade and count as not judged (first: query '1', document 'c')",
        "run: 1 ranking has no reference and will be ignored (first: '2')",
    ]


def test_what_does_not_match_is_reported_once(score):
    run = RUN + "8 Q0 a 1 1 t\n9 Q0 a 1 1 t\n"
    code, out, said = score(run, QRELS + "3 0 a 1\n4 0 a 1\n5 0 a 0\n", "--metric", "mrr", "--json")
    found = json.loads(out)
    assert (code, found["mrr"]) == (0, pytest.approx(1.5 / 5))
    assert (found["queries"], found["queries_without_results"]) == (5, 3)
    assert found["signature"]["mrr"].endswith("|queries:5, 3 without results")
    assert said == [
        "qrels:6: 1 of 5 queries have no relevant document and count as 0 (first: '5')",
        "run: 3 of 5 references have no ranking and count as 0 (first: '3')",
        "run: 2 rankings have no reference and will be ignored (first: '8')",
    ]


def test_documents_that_are_never_judged_are_reported(score):
    code, out, said = score("1 Q0 doc_b 1 1 t\n", "1 0 b 1\n", "--metric", "mrr", "--json")
    assert (code, json.loads(out)["mrr"]) == (0, 0)
    assert said == [
        "run: no document found for any query is judged: of query '1' documents found look like 'doc_b', judged ones "
        "like 'b'; check that the files belong together"
    ]


@pytest.mark.parametrize(
    ("run", "judgments", "options", "code", "message"),
    [
        (
            "q1 Q0 a 1 1 t\n",
            QRELS,
            [],
            3,
            "run: no ranking id matches a reference id: ranking ids look like 'q1', reference ids like '1'; check that "
            "the files belong together",
        ),
        (
            RUN,
            "1 0 a 0\n2 0 b -1\n",
            [],
            3,
            "qrels: no document is relevant to any query; expected at least one with a ",
        ),
        (
            RUN,
            QRELS,
            ["--gains", "1=1"],
            3,
            "qrels:2: query '2', document 'c': grade 2 has no gain, found gains for 1; ",
        ),
        (
            RUN,
            QRELS,
            ["--gains", "good"],
            2,
            "gains 'good': expected different grades, each with a gain of at least 0, ",
        ),
        (RUN, QRELS, ["--metric", "hits@3"], 2, "unknown retrieval metric 'hits@3': expected one of ndcg, mrr, map, "),
        (RUN, "1 0 a 0.5\n", [], 3, "qrels:1: query '1', document 'a': found 0.5, expected a whole number "),
        ("1 Q0 a 1 nan t\n", QRELS, [], 3, "run:1: query '1', document 'a': found nan, expected a finite number"),
        ("", QRELS, [], 3, "run: the file is empty; expected at least one query with a document"),
    ],
)
def test_mistakes(score, run, judgments, options, code, message):
    found, out, said = score(run, judgments, *options)
    assert (found, out) == (code, "")
    assert said[-1].startswith(message)


def test_a_folder_of_beir_is_named_by_its_file(score):
    Path("beir/qrels").mkdir(parents=True)
    Path("beir/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tb\t-1\n2\tc\t1\n")
    code, out, said = score(RUN, QRELS, "--references", "beir", "--metric", "precision@1", "--json")
    assert (code, json.loads(out)["precision@1"]) == (0, 0.5)
    assert said[0].startswith("beir/qrels/test.tsv:2: 1 of 2 judgments have a negative grade")
