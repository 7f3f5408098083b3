"""A model whose embedding table has unused rows at its end computes the same as in transformers, with one warning."""

from __future__ import annotations

import pytest
import torch

import minilm
from minilm.errors import DataError
from minilm.finetune.sweep import finetune
from minilm.model.checkpoint import read_model
from minilm.recipe import FinetuneRecipe, load_recipe

transformers = pytest.importorskip("transformers")

TEXTS = ["word1 word2", "word3", "word4 word5 word6 word7"]
TOKENS = 100


@pytest.mark.parametrize("rows", [104, 128])
def test_scores_and_vectors_are_those_of_transformers(tiny_task, rows, caplog):
    folder = tiny_task.write_classifier("theirs", seed=3, num_labels=3, vocab_size=rows)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**tokens).logits.softmax(-1)
    ours = minilm.load(folder)
    found = torch.tensor([one.probabilities for one in ours.classify(TEXTS)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert ours.encode(TEXTS).shape == (3, ours.config.hidden_size)
    unused = [message for message in caplog.messages if "the rest are unused" in message]
    assert len(unused) == 1
    assert f"has {rows} rows for the {TOKENS} tokens of" in unused[0]


def test_fine_tuning_keeps_the_unused_rows(tiny_task):
    folder = tiny_task.write_classifier("theirs", seed=3, num_labels=2, vocab_size=104)
    finetune(load_recipe(tiny_task.recipe(steps=1, eval_every=1), [f"model={folder}"], kind=FinetuneRecipe))
    before, after = read_model(folder), read_model(tiny_task.folder / "run" / "model")
    rows = [model.encoder.embeddings.word.weight[TOKENS:] for model in (before, after)]
    torch.testing.assert_close(*rows, atol=1e-4, rtol=0)  # weight decay
    assert transformers.AutoConfig.from_pretrained(tiny_task.folder / "run" / "model").vocab_size == 104


@pytest.mark.parametrize("rows", [101, 240])
def test_another_number_of_rows_is_the_table_of_another_vocabulary(tiny_task, rows):
    folder = tiny_task.write_classifier("theirs", seed=3, num_labels=2, vocab_size=rows)
    with pytest.raises(DataError, match=f"has {TOKENS} tokens but .*theirs has {rows}: they do not match"):
        minilm.load(folder)
