"""A trained reranker has the same scores and rankings in sentence-transformers' CrossEncoder."""

from __future__ import annotations

import pytest

import minilm
from minilm.finetune.sweep import finetune
from minilm.recipe import FinetuneRecipe, load_recipe

sentence_transformers = pytest.importorskip("sentence_transformers")

QUERY = "word1 word2"
TEXTS = ["word7 word30", "word31", "word32 " * 40, "word7 " * 3, "word9 word7 word11"]


def trained(tiny_task, loss: str, pooling: str, *changes: str):
    recipe = tiny_task.rerank_recipe(loss, steps=6, eval_every=6, task={"pooling": pooling})
    finetune(load_recipe(recipe, changes, kind=FinetuneRecipe))
    return tiny_task.folder / "run" / "model"


@pytest.mark.parametrize(
    ("loss", "pooling", "activation"),
    [
        ("bce", "cls", "Sigmoid"),
        ("bce", "mean", "Sigmoid"),
        ("mse", "cls", "Identity"),
        ("lambda", "mean", "Identity"),
    ],
)
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_the_folder_has_the_same_scores_there(tiny_task, loss, pooling, activation, engine):
    """The activation fits the loss, and texts are truncated at the same length."""
    folder = trained(tiny_task, loss, pooling)
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    assert type(theirs.activation_fn).__name__ == activation
    ours = minilm.load(folder, engine=engine)
    assert (ours.activation, ours.labels, ours.max_tokens, theirs.max_seq_length) == (activation, (), 32, 32)
    pairs = [(QUERY, text) for text in TEXTS]
    assert ours.score_pairs(pairs) == pytest.approx(theirs.predict(pairs), rel=1e-5, abs=1e-5)
    ranking = theirs.rank(QUERY, TEXTS, top_k=3)
    assert [one.index for one in ours.rank(QUERY, TEXTS, top_k=3)] == [one["corpus_id"] for one in ranking]


def test_a_reranker_that_they_saved_with_mean_pooling_is_read_and_trained_further(tiny_task, tmp_path):
    folder = trained(tiny_task, "mse", "mean")
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    theirs.save_pretrained(str(tmp_path / "saved"))
    pairs = [(QUERY, text) for text in TEXTS]
    expected = theirs.predict(pairs)
    assert minilm.load(tmp_path / "saved").score_pairs(pairs) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    frozen = (
        "train.learning_rate=1e-12",
        f"model={tmp_path / 'saved'}",
        "task.head=keep",
        "out=" + str(tmp_path / "b"),
    )
    trained(tiny_task, "mse", "mean", *frozen)
    again = minilm.load(tmp_path / "b" / "model").score_pairs(pairs)
    assert again == pytest.approx(expected, rel=1e-5, abs=1e-5)
