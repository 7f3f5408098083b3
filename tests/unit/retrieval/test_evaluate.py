"""Which candidates an evaluation gives to a reranker; its numbers are tested in `unit/cli`."""

from __future__ import annotations

import numpy as np
import pytest

import minilm
from minilm.infer.bulk.embed import TextToEmbed
from minilm.retrieval import evaluate
from minilm.retrieval.evaluate import Evaluation, Setting
from minilm.retrieval.index import Index, IndexJob, Searcher, build_index
from minilm.score.retrieval import parse_metric
from minilm.tally import Tally

TEXTS = {f"d{number}": f"w{number} w{number + 1} w{2 * number}" for number in range(12)}


@pytest.mark.parametrize("candidates", [4, 12])
def test_a_document_with_the_id_of_the_query_takes_no_place(generator_dir, tmp_path, monkeypatch, candidates):
    """It has the query's text, so it would be the first."""
    model = minilm.load(generator_dir)
    documents = [TextToEmbed(id=name, text=text, location=name) for name, text in TEXTS.items()]
    build_index(model, documents, IndexJob(name="", folder=tmp_path / "idx"))
    searcher, seen = Searcher(Index(tmp_path / "idx"), model), []
    monkeypatch.setattr(evaluate, "reranked", lambda model, queries, hits, *rest: seen.append(hits) or hits)
    queries = [documents[3], TextToEmbed(id="q", text="w5 w7", location="q")]
    evaluation = Evaluation(
        searcher=searcher,
        names=[one.id for one in queries],
        texts=[one.text for one in queries],
        judgments={"d3": {"d5": 1}, "q": {"d5": 1}},
        metric=parse_metric("ndcg@4"),
        skip_same_id=True,
    )
    vectors = searcher.encode(queries, Tally())
    whole, again = evaluation.scored(vectors, [Setting(dimensions=16, vectors="fp32")], model, candidates)
    [hits] = seen
    assert hits.rows_QK.shape == (2, candidates)
    assert 3 not in hits.rows_QK[0, :11]
    assert (np.diff(hits.scores_QK[0, :11]) <= 0).all()
    assert hits.rows_QK[1].tolist() == searcher.search(vectors[1:], k=candidates).rows_QK[0].tolist()
    assert again.mean == whole.mean
