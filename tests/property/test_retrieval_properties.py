"""Retrieval scores of each query equal those of pytrec_eval to 1e-6, for any run and judgments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.score.retrieval import parse_metric, retrieval_scores

DEPTHS = (1, 3, 10)
MEASURES = {"ndcg", "map", "recip_rank", "set_recall"} | {
    f"{name}.{','.join(map(str, DEPTHS))}" for name in ("ndcg_cut", "map_cut", "recall", "P")
}
NAMES = ["ndcg", "map", "mrr", "recall"] + [
    f"{name}@{k}" for name in ("ndcg", "map", "mrr", "recall", "precision") for k in DEPTHS
]
# ids whose order differs between bytes, numbers and upper and lower case
documents = st.sampled_from(["1", "2", "9", "10", "a", "B", "é", "\uffee", "𝄞", *(f"d{n}" for n in range(8))])
queries = st.sampled_from(["q1", "q2", "q3", "Q", "7"])
# ties, also between numbers that only double precision distinguishes or single precision cannot hold
scores = st.one_of(st.sampled_from([0.0, -0.0, 0.1, 0.1 + 1e-12, 1, 1e-46, 1e60, 1e90, -2.5]), st.floats(-1, 1))
run = st.dictionaries(queries, st.dictionaries(documents, scores, max_size=16), max_size=5)
grades = st.dictionaries(documents, st.integers(-3, 4), min_size=1, max_size=16).filter(
    lambda one: max(one.values()) >= 0  # of none, trec_eval's counts are those of the query before
)
judgments = st.dictionaries(queries, grades, min_size=1, max_size=5).filter(
    lambda all_of: any(grade > 0 for one in all_of.values() for grade in one.values())
)


def expected(theirs: dict[str, float], name: str) -> float:
    """The number of trec_eval for one of our names; it has no MRR of the first k, which follows from the whole one."""
    kind, _, k = name.partition("@")
    if kind == "mrr":
        whole = theirs["recip_rank"]
        return whole if not k or whole >= 1 / int(k) else 0.0
    if not k:
        return theirs["set_recall" if kind == "recall" else kind]
    cut = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}
    return theirs[f"{cut[kind]}_{k}"]


@given(run=run, judgments=judgments)
@settings(max_examples=150, deadline=None)
def test_every_number_is_that_of_trec_eval(run, judgments):
    """A query that pytrec_eval leaves out, since the run lacks it, counts 0."""
    oracle = pytest.importorskip("pytrec_eval", reason="needs pytrec-eval-terrier: pip install 'minilm[dev]'")
    theirs = oracle.RelevanceEvaluator(judgments, MEASURES).evaluate(run)
    found = retrieval_scores(run, judgments, [parse_metric(name) for name in NAMES])
    assert found.queries == tuple(judgments)
    for query, own in zip(found.queries, found.values_QM.tolist(), strict=True):
        right = [expected(theirs[query], name) if query in theirs else 0.0 for name in NAMES]
        assert own == pytest.approx(right, abs=1e-6), query
    total = sum(own["ndcg_cut_10"] for own in theirs.values())
    assert found.means()["ndcg@10"] == pytest.approx(total / len(judgments), abs=1e-6)
