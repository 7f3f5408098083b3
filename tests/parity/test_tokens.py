"""Tagging words is what transformers does: logits, loss and gradients, words of its pipeline, saved folders."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.start import start_model
from minilm.finetune.sweep import finetune
from minilm.finetune.task import StepRows
from minilm.infer.api import load
from minilm.model.packed_ids import pack_ids
from minilm.recipe import FinetuneRecipe, load_recipe

transformers = pytest.importorskip("transformers", reason="parity needs transformers: pip install 'minilm[hf]'")

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def recipe(tiny_task) -> FinetuneRecipe:
    """A recipe that starts from a transformers model for token classification."""
    path = tiny_task.tokens_recipe()
    start = tiny_task.write_classifier("start", seed=3, labels=LABELS, of="Token", **PLAIN)
    return load_recipe(path, [f"model={start}", f"task.labels=[{', '.join(LABELS)}]"], kind=FinetuneRecipe).recipe


def their_batch(tokenizer, words: list[list[str]], tags: list[list[str]]) -> dict[str, torch.Tensor]:
    """Tokens and labels as in run_ner: the first token of a word has its tag, the others are ignored."""
    batch = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
    rows = []
    for number, own in enumerate(tags):
        ids = batch.word_ids(number)
        is_first = [word is not None and (not place or ids[place - 1] != word) for place, word in enumerate(ids)]
        rows.append([LABELS.index(own[word]) if first else -100 for word, first in zip(ids, is_first, strict=True)])
    return {**batch, "labels": torch.tensor(rows)}


def sentences_of(path: Path) -> tuple[list[list[str]], list[list[str]]]:
    parts = [[line.split() for line in part.split("\n")] for part in path.read_text().strip().split("\n\n")]
    return [[word for word, _ in part] for part in parts], [[tag for _, tag in part] for part in parts]


def test_loss_and_gradients_of_a_step_are_those_of_transformers(recipe):
    """The mean over all words of the step, whatever the cut into processes and microbatches."""
    start = Path(recipe.model)
    task = make_task(recipe.task, task_tokenizer(recipe.task, start, lowercase=None))
    model = start_model(start, task, seed=1)
    rows = np.array([3, 7, 1, 15])
    own = (np.array([0, 2]), np.array([1, 3]))  # of two processes
    batches = [task.batch(StepRows(rows=rows, own=one, step=0, seed=0), token_budget=16) for one in own]
    assert sum(len(batch.parts) for batch in batches) > 2
    loss = sum(part.loss(model) for batch in batches for part in batch.parts)
    loss.backward()
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(start).train()
    words, tags = sentences_of(Path(recipe.task.train[0]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    expected = theirs(**their_batch(tokenizer, [words[row] for row in rows], [tags[row] for row in rows])).loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, word in (
        (model.head.out.weight.grad, theirs.classifier.weight.grad),
        (model.encoder.embeddings.word.weight.grad[1:], theirs.get_input_embeddings().weight.grad[1:]),  # without [PAD]
    ):
        assert (ours - word).abs().max() < 1e-5 * word.abs().max()


def words_and_marks(*, seed: int, count: int) -> list[str]:
    """Texts of known and unknown words, pieces and punctuation."""
    draw = random.Random(seed)
    parts = ("word1", "word2s", "word3ss", "word4", "Word5", "unknown", "word6.", "word7,word8", "...", "word9's")
    return [" ".join(draw.choices(parts, k=draw.randint(1, 12))) + draw.choice(("", ".", "  ")) for _ in range(count)]


def test_logits_and_entities_of_a_folder_are_those_of_transformers(tiny_task):
    tiny_task.tokens_recipe()
    folder = tiny_task.write_classifier("theirs", seed=2, labels=LABELS, of="Token")
    model, texts = load(folder), words_and_marks(seed=1, count=60)
    assert (model.head, model.labels) == ("tokens", LABELS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    for text in texts[:5]:
        ids = model.tokenizer.encode([text])[0]
        assert ids.tolist() == tokenizer(text).input_ids
        with torch.no_grad():
            expected = theirs(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(model.engine.tokens(pack_ids([ids])), expected, atol=1e-5 * expected.abs().max())
    pipeline = transformers.pipeline(
        "token-classification", model=theirs, tokenizer=tokenizer, aggregation_strategy="first", device="cpu"
    )
    kinds = set()
    for text, found in zip(texts, model.tag(texts), strict=True):
        expected = pipeline(text)
        assert [(one.label, one.start, one.end) for one in found.entities] == [
            (one["entity_group"], one["start"], one["end"]) for one in expected
        ]
        assert [one.score for one in found.entities] == pytest.approx(
            [float(one["score"]) for one in expected], abs=2e-5
        )
        assert all(one.text == text[one.start : one.end] for one in found.entities)
        kinds |= {(one.label, one.end_word - one.first_word > 1) for one in found.entities}
    assert len(kinds) == 4  # both types, in one word and in several


def test_tags_without_prefixes_are_joined_as_by_the_pipeline(tiny_task):
    tiny_task.tokens_recipe()
    folder = tiny_task.write_classifier("speech", seed=6, labels=("NOUN", "VERB", "O"), of="Token")
    texts = words_and_marks(seed=2, count=20)
    pipeline = transformers.pipeline(
        "token-classification", model=str(folder), aggregation_strategy="first", device="cpu"
    )
    for text, found in zip(texts, load(folder).tag(texts), strict=True):
        spans = [(one["entity_group"], one["start"], one["end"]) for one in pipeline(text)]
        assert [(one.label, one.start, one.end) for one in found.entities] == spans


def test_lists_of_words_are_tagged_as_by_the_pipeline(tiny_task):
    tiny_task.tokens_recipe()
    folder = tiny_task.write_classifier("theirs", seed=2, labels=LABELS, of="Token")
    lists = [text.split() for text in words_and_marks(seed=3, count=20)]
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for words, found in zip(lists, load(folder).tag(lists), strict=True):
        batch = tokenizer([words], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            best = theirs(**batch).logits[0].argmax(-1).tolist()
        first = [batch.word_ids(0).index(number) for number in range(len(words))]
        assert found.tags == tuple(LABELS[best[place]] for place in first)
        assert found.words == tuple(words)
        assert found.text == " ".join(words)


def test_words_of_a_byte_level_tokenizer_begin_with_a_space_as_transformers_demands(tmp_path):
    from tokenizers import ByteLevelBPETokenizer

    texts = ["Anna lives in Paris.", "Paris, and Anna!"] * 5
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    trained.save_model(str(tmp_path))
    theirs = transformers.RobertaTokenizerFast.from_pretrained(str(tmp_path), add_prefix_space=True)
    transformers.RobertaTokenizerFast.from_pretrained(str(tmp_path), add_prefix_space=False).save_pretrained(
        tmp_path / "t"
    )
    from minilm.text.tokenizer import Tokenizer

    ours = Tokenizer.load(tmp_path / "t")
    words = ["Anna", "lives", "in", "Paris", "."]
    [(ids, owners)] = ours.encode_words([words])
    expected = theirs(words, is_split_into_words=True, add_special_tokens=False)
    assert ids.tolist() == expected.input_ids
    assert owners.tolist() == expected.word_ids()
    ours.for_words.save(tmp_path / "saved")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")("Anna").input_ids == theirs("Anna").input_ids


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_a_fine_tuned_folder_is_loaded_by_transformers_with_equal_logits(tiny_task, family):
    recipe = tiny_task.tokens_recipe(steps=2, eval_every=2)
    if family == "Roberta":
        sizes = {"vocab_size": 103, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.RobertaConfig(
            **sizes, intermediate_size=48, max_position_embeddings=66, pad_token_id=0, initializer_range=0.3
        )
        transformers.RobertaModel(config).save_pretrained(tiny_task.model)
    finetune(load_recipe(recipe, kind=FinetuneRecipe))
    folder = tiny_task.folder / "run" / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs, info = transformers.AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == f"{family}ForTokenClassification"
    assert not any(info.values()), info
    labels = {
        int(number): name for number, name in json.loads((folder / "config.json").read_text())["id2label"].items()
    }
    assert theirs.config.id2label == labels
    model = load(folder)
    ids = model.tokenizer.encode(["word1 word2s word3"])[0]
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    np.testing.assert_allclose(model.engine.tokens(pack_ids([ids])), expected, atol=1e-5 * expected.abs().max())
