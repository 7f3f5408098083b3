"""Which candidates an evaluation gives to a reranker, and how queries are cut; numbers are tested in `unit/cli`."""

from __future__ import annotations

import numpy as np
import pytest

import minilm
from minilm.infer.bulk.embed import TextToEmbed
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.vector_modules import Normalize
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


@pytest.mark.parametrize("dimensions", [None, 8])
def test_all_dimensions_of_a_folder_that_cuts_its_vectors_are_what_it_gives(generator_dir, tmp_path, dimensions):
    """Queries and documents are made in the same way, also where the dimensions are named."""
    settings = EmbeddingSettings(modules=(Normalize(),), truncate_dim=8, similarity="euclidean")
    write_embedding(generator_dir, settings, hidden_size=16)
    model = minilm.load(generator_dir)
    documents = [TextToEmbed(id=name, text=text, location=name) for name, text in TEXTS.items()]
    build_index(model, documents, IndexJob(name="", folder=tmp_path / "idx", dimensions=dimensions))
    searcher = Searcher(Index(tmp_path / "idx"), model)
    hits = searcher.search(searcher.encode(documents[3:4], Tally()), k=1)
    assert hits.rows_QK.tolist() == [[3]]
    assert hits.scores_QK[0, 0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(searcher.index.vectors.numbers(), model.encode(TEXTS.values()))
