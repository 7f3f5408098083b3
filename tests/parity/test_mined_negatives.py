"""Mined negatives are those of sentence-transformers' `mine_hard_negatives` with the same vectors, score by score."""

from __future__ import annotations

import json

import numpy as np
import pytest

import minilm
from minilm.infer.vectors import ACTIVATIONS, normalized
from minilm.retrieval.mine import MiningJob, mine
from minilm.retrieval.pairs import MiningTexts
from minilm.retrieval.settings import MiningSettings

pytest.importorskip("sentence_transformers", reason="mining is compared with it: pip install 'minilm[bench]'")
datasets = pytest.importorskip(
    "datasets", reason="sentence-transformers mines in its tables: pip install 'minilm[hub]'"
)

random = np.random.default_rng(0)
CORPUS = [" ".join(f"w{one}" for one in random.integers(0, 60, random.integers(1, 9))) for _ in range(40)]
PAIRS = [(f"w{row} w{2 * row} w3", CORPUS[3 * row]) for row in range(10)] + [("w2 w4 w3", CORPUS[1])]


class Theirs:
    """What `mine_hard_negatives` uses of a model, with the vectors of ours."""

    device = "cpu"

    def __init__(self, model):
        self.model = model

    def encode_document(self, texts, **_):
        return normalized(self.model.encode(texts, role="document"))

    def encode_query(self, texts, **_):
        return normalized(self.model.encode(texts, role="query"))

    def similarity(self, first, second):
        import torch

        return torch.as_tensor(first) @ torch.as_tensor(second).T

    def similarity_pairwise(self, first, second):
        import torch

        return (torch.as_tensor(first) * torch.as_tensor(second)).sum(1)


class Reranker:
    """What it uses of a cross-encoder, with the scores of ours."""

    def __init__(self, model):
        self.model = model

    def predict(self, pairs, **_):
        import torch

        return torch.as_tensor(self.model.score_pairs([tuple(pair) for pair in pairs]))


def theirs(model, reranker, options):
    from sentence_transformers.util import mine_hard_negatives

    table = datasets.Dataset.from_dict({"query": [one for one, _ in PAIRS], "positive": [one for _, one in PAIRS]})
    names = {"negatives": "num_negatives"}
    mined = mine_hard_negatives(
        table,
        Theirs(model),
        corpus=CORPUS,
        cross_encoder=reranker and Reranker(reranker),
        output_scores=True,
        output_format="triplet",
        verbose=False,
        **{names.get(name, name): value for name, value in options.items()},
    )
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in mined:
        found.setdefault((row["query"], row["positive"]), {})[row["negative"]] = row["scores"]
    return found


def ours(model, reranker, options, path):
    corpus = list(dict.fromkeys(CORPUS))
    positives: dict[str, list[int]] = {}
    for query, positive in PAIRS:
        positives.setdefault(query, []).append(corpus.index(positive))
    job = MiningJob(output=path, settings=MiningSettings(**options), reranker=reranker)
    mine(MiningTexts(corpus=corpus, positives=positives), model, job)
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    return {
        (row["query"], row["positive"]): {
            text: [row["scores"][0], score] for text, score in zip(row["negatives"], row["scores"][1:], strict=True)
        }
        for row in rows
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"negatives": 5, "range_min": 2},
        {"range_min": 3, "range_max": 9, "max_score": 0.9},
        {"absolute_margin": 0.02},
        {"relative_margin": 0.1, "min_score": 0.0},
        {"range_max": 60, "min_score": 0.3, "negatives": 8},
        {"absolute_margin": 0.01, "reranked": "Identity"},
        {"absolute_margin": 0.1, "reranked": "Sigmoid"},
        {"relative_margin": 0.05, "max_score": 0.9, "negatives": 4, "reranked": "Sigmoid"},
        {"max_score": 0.5, "min_score": -0.5, "negatives": 4, "reranked": "Identity"},
    ],
    ids=str,
)
def test_the_same_negatives_with_the_same_scores(generator_dir, tiny_task, tmp_path, options):
    model = minilm.load(generator_dir)
    options = dict(options)
    reranker, activated = None, np.asarray
    if activation := options.pop("reranked", ""):
        reranker = minilm.load(tiny_task.write_classifier("reranker", seed=3, num_labels=1))
        reranker.tokenizer = model.tokenizer  # of a smaller vocabulary, which has the words
        reranker.activation, activated = activation, ACTIVATIONS[activation]
    expected = theirs(model, reranker, options)
    found = ours(model, reranker, options, tmp_path / "out.jsonl")
    assert sum(map(len, expected.values())) > 5
    assert found.keys() == expected.keys()
    for pair, negatives in expected.items():
        assert list(found[pair]) == list(negatives)
        scores = np.array(list(found[pair].values()), dtype=np.float32)  # raw, those of the library are activated
        np.testing.assert_allclose(activated(scores), list(negatives.values()), atol=1e-5)
