"""Rankings and scores of pairs, from Python and from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tests.rankers import write_ranker

from minilm.cli import app
from minilm.errors import DataError, UsageError
from minilm.files.trec import read_run
from minilm.finetune.sweep import finetune
from minilm.infer.api import load
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.score.retrieval import ranked

TEXTS = ["word30", "word7 word31", "word32 word33", "word30"]


@pytest.fixture(scope="module")
def reranker(new_tiny_task, tmp_path_factory):
    tiny = new_tiny_task(tmp_path_factory.mktemp("rank"))
    finetune(load_recipe(tiny.rerank_recipe(steps=20, eval_every=20), kind=FinetuneRecipe))
    return tiny.folder / "run" / "model"


def predict(folder, rows, *options: str):
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit) as ended:
        app.main(["predict", *options, "--input", str(source), "--output", str(output)])
    return ended.value.code, output


def test_a_ranking_is_sorted_stable_and_cut(reranker):
    model = load(reranker)
    scores = model.score_pairs([("word1", text) for text in TEXTS]).tolist()
    found = model.rank("word1", TEXTS)
    assert [(one.score, one.text) for one in found] == [(scores[one.index], TEXTS[one.index]) for one in found]
    assert [one.score for one in found] == sorted(scores, reverse=True)
    places = [one.index for one in found]
    assert places.index(0) < places.index(3)
    assert model.rank("word1", iter(TEXTS), top_k=2) == found[:2]
    assert model.rank("word1", []) == []
    assert model.score_pairs([]).shape == (0,)
    assert [one.score for one in model.classify(["word1"] * 4, TEXTS)] == pytest.approx(scores)


def test_raw_scores_come_before_the_activation(reranker):
    model = load(reranker)  # of labels, so its activation is a sigmoid
    pairs = [("word1", text) for text in TEXTS]
    raw, scores = model.score_pairs(pairs, raw_scores=True), model.score_pairs(pairs)
    assert (raw.dtype, model.activation) == (scores.dtype, "Sigmoid")
    assert 1 / (1 + np.exp(-raw.astype(np.float64))) == pytest.approx(scores, abs=1e-6)
    assert raw.min() < 0


@pytest.mark.parametrize(("activation", "bias"), [("Sigmoid", 60.0), ("ReLU", -60.0), ("GELU", -6.0), ("SiLU", -6.0)])
def test_texts_are_ranked_by_what_an_activation_cannot_make_equal(tiny_task, tmp_path, activation, bias):
    """One that never falls may make all scores equal; one that falls below 0 has an order of its own."""
    model = load(write_ranker(tiny_task, bias=bias, activation=activation))
    texts = [f"word{n} word{n * n % 90} word{3 * n % 80}" for n in range(9)]
    pairs = [("word1", text) for text in texts]
    scores, raw = model.score_pairs(pairs), model.score_pairs(pairs, raw_scores=True)
    falls = activation in ("GELU", "SiLU")
    assert len(set(scores.tolist())) == (9 if falls else 1)
    assert len(set(raw.tolist())) == 9
    expected = np.argsort(-(scores if falls else raw), kind="stable").tolist()
    assert (expected == np.argsort(-raw, kind="stable").tolist()) != falls
    found = model.rank("word1", texts)
    assert [one.index for one in found] == expected
    assert [one.score for one in found] == pytest.approx(scores[expected].tolist(), abs=1e-7)
    rows = [{"query_id": "q", "doc_id": str(n), "query": "word1", "text": text} for n, text in enumerate(texts)]
    code, output = predict(tmp_path, rows, str(model.folder), "--task", "rerank")
    run = read_run(output)["q"]
    assert (code, ranked(run)) == (0, [str(index) for index in expected])
    plain = [{"query": row["query"], "text": row["text"]} for row in rows]
    _, output = predict(tmp_path, plain, str(model.folder), "--task", "rerank")
    shown = [json.loads(line)["prediction"] for line in output.read_text().split("\n") if line]
    assert shown == pytest.approx(scores.tolist(), abs=1e-7)


def test_a_score_that_is_not_finite_is_an_error(tiny_task):
    folder = tiny_task.write_classifier("broken", seed=0, num_labels=1)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] * float("nan")}, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"pair 0: its score is not finite; the weights of .*broken are damaged"):
        load(folder).score_pairs([("word1", "word2")])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.rank("q", TEXTS, top_k=0), "top_k is 0; expected 1 or more, or None for all"),
        (lambda model: model.rank(3, TEXTS), "rank"),
        (lambda model: model.rank("q", "a text"), "rank"),
        (
            lambda model: model.score_pairs([("q", "a"), ("q",)]),
            r"pair 1 is \('q',\); score_pairs expects pairs of two",
        ),
        (lambda model: model.score_pairs([("q", 3)]), "pair 0 is"),
    ],
)
def test_mistakes_are_named(reranker, call, message):
    with pytest.raises(UsageError, match=message):
        call(load(reranker))


def test_a_classifier_of_several_labels_does_not_rank(tiny_task):
    folder = tiny_task.write_classifier("several", seed=1, num_labels=3)
    with pytest.raises(UsageError, match="has 3 labels, expected a model with one score"):
        load(folder).rank("q", TEXTS)
    with pytest.raises(UsageError, match="has no score for a pair of texts, expected a model with one score"):
        load(tiny_task.model).rank("q", TEXTS)


def test_candidates_become_a_run_that_score_retrieval_reads(reranker, tmp_path, capsys):
    rows = [
        {"query_id": query, "doc_id": f"d{number}", "query": "word1", "text": text}
        for query in ("a", "b")
        for number, text in enumerate(TEXTS)
    ]
    code, output = predict(tmp_path, rows, str(reranker))
    assert code == 0
    found = [json.loads(line) for line in output.read_text().split("\n") if line]
    scores = load(reranker).score_pairs([(row["query"], row["text"]) for row in rows], raw_scores=True)
    assert [(one["query"], one["doc"]) for one in found] == [(row["query_id"], row["doc_id"]) for row in rows]
    assert [one["score"] for one in found] == pytest.approx(scores.tolist(), abs=1e-6)
    qrels = tmp_path / "judged.qrels"
    qrels.write_text("a 0 d1 1\nb 0 d1 2\n")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        app.main(["score", "retrieval", "--predictions", str(output), "--references", str(qrels), "--json"])
    best = load(reranker).rank("word1", TEXTS)[0].index
    assert (json.loads(capsys.readouterr().out)["mrr@10"] == 1) == (best == 1)


def test_pairs_without_ids_are_numbered_and_columns_can_be_named(reranker, tmp_path):
    code, output = predict(tmp_path, [{"query": "word1", "text": text} for text in TEXTS], str(reranker))
    found = [json.loads(line) for line in output.read_text().split("\n") if line]
    assert code == 0
    assert [one["id"] for one in found] == ["0", "1", "2", "3"]
    renamed = [{"id": f"x{number}", "q": "word1", "d": text} for number, text in enumerate(TEXTS)]
    predict(tmp_path, renamed, str(reranker), "--text", "q", "--text-pair", "d")
    again = [json.loads(line) for line in output.read_text().split("\n") if line]
    assert [one["prediction"] for one in again] == [one["prediction"] for one in found]
    assert [one["id"] for one in again] == ["x0", "x1", "x2", "x3"]


def test_a_cross_encoder_of_another_library_ranks_with_task_rerank(tiny_task, tmp_path):
    folder = tiny_task.write_classifier("theirs", seed=3, num_labels=1)
    rows = [{"query_id": "a", "doc_id": "d", "query": "word1", "text": "word2"}]
    code, output = predict(tmp_path, rows, str(folder), "--task", "rerank")
    assert code == 0
    assert set(json.loads(output.read_text())) == {"query", "doc", "score"}


def test_a_row_without_its_id_is_named(reranker, tmp_path, capsys):
    rows = [{"query_id": "a", "doc_id": "d", "query": "word1", "text": "word2"}, {"query": "word1", "text": "word3"}]
    code, output = predict(tmp_path, rows, str(reranker))
    assert code == 3
    assert "in.jsonl:2: no field 'query_id'" in capsys.readouterr().err
    assert not output.exists()
