"""Proves what is compared for each kind of model: its vectors, labels or numbers, for the tokens its task reads."""

from __future__ import annotations

import numpy as np
import pytest

import minilm
from minilm.export.answers import answers_of, inputs_of
from minilm.export.calibration import largest_inputs, smoothing_of
from minilm.files.json import read_json, write_json
from minilm.model.metadata import activation_values
from minilm.tally import Tally
from minilm.tasks.rerank.settings import RerankSettings
from minilm.tasks.saved import write_task
from minilm.tasks.text.settings import TextSettings

TEXTS = [f"word{number} word{number + 1} word{3 * number}" for number in range(9)]


@pytest.fixture
def folder_of(task, tmp_path):
    """`folder_of(kind, labels)`: a transformers model of that kind with random weights."""
    pytest.importorskip("transformers")

    def write(labels, *, of="Sequence", **config):
        folder = task.write_classifier(tmp_path / "m", seed=2, labels=labels, of=of)
        if config:
            write_json(folder / "config.json", read_json(folder / "config.json") | config)
        return folder

    return write


def test_vectors_are_those_of_encode(task):
    """With the prompt of the folder, if any."""
    model = minilm.load(task.model)
    found = answers_of(model, inputs_of(model, TEXTS, Tally()))
    assert found.vectors is not None
    assert (found.vectors == model.encode(TEXTS)).all()
    assert found.labels is None


def test_labels_of_a_classifier(folder_of):
    model = minilm.load(folder_of(("a", "b", "c")))
    found, expected = answers_of(model, inputs_of(model, TEXTS, Tally())), model.classify(TEXTS)
    assert [model.labels[label] for label in found.labels] == [one.label for one in expected]
    np.testing.assert_array_equal(found.numbers.reshape(-1, 3), [one.probabilities for one in expected])


def test_a_classifier_of_pairs_reads_each_text_with_the_next(folder_of):
    folder = folder_of(("a", "b"))
    write_task(folder, TextSettings(name="own", text="first", text_pair="second"))
    model = minilm.load(folder)
    expected = model.classify(TEXTS, [*TEXTS[1:], TEXTS[0]])
    found = answers_of(model, inputs_of(model, TEXTS, Tally()))
    np.testing.assert_array_equal(found.numbers.reshape(-1, 2), [one.probabilities for one in expected])


def test_a_reranker_reads_each_text_with_the_next(folder_of):
    folder = folder_of(("a",))
    write_task(folder, RerankSettings(name="own"))
    model = minilm.load(folder)
    expected = model.score_pairs(list(zip(TEXTS, [*TEXTS[1:], TEXTS[0]], strict=True)))
    found = answers_of(model, inputs_of(model, TEXTS, Tally()))
    np.testing.assert_array_equal(found.numbers.astype(np.float32), expected)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}),
        ("config.json", {"sentence_transformers": {"version": "4.0.1"}}),
        ("config.json", {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}),
    ],
)
@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c")])
def test_a_cross_encoder_without_a_task_reads_pairs(folder_of, file, values, labels):
    folder = folder_of(labels)
    write_json(folder / file, (read_json(folder / file) if (folder / file).is_file() else {}) | values)
    model = minilm.load(folder)
    pairs = model.tokenizer.encode_pairs(TEXTS, [*TEXTS[1:], TEXTS[0]], max_length=model.max_tokens)
    found = inputs_of(model, TEXTS, Tally()).token_ids
    assert [one.tolist() for one in found] == [ids.tolist() for ids, _ in pairs]


def test_a_task_of_single_texts_reads_them_alone(folder_of):
    """Whatever the configuration says besides."""
    folder = folder_of(("a",), sentence_transformers={"version": "4.0.1"})
    write_task(folder, TextSettings(name="own", regression=True))
    model = minilm.load(folder)
    inputs = inputs_of(model, TEXTS, Tally())
    assert [len(one) for one in inputs.token_ids] == [5] * len(TEXTS)


def test_scores_are_those_before_the_activation(folder_of):
    """A sigmoid makes them nearly equal, and hides an order that is lost."""
    folder = folder_of(("a",), **activation_values("Sigmoid"))
    model = minilm.load(folder)
    assert model.activation == "Sigmoid"
    pairs = list(zip(TEXTS, [*TEXTS[1:], TEXTS[0]], strict=True))
    found = answers_of(model, inputs_of(model, TEXTS, Tally()))
    np.testing.assert_array_equal(found.numbers.astype(np.float32), model.score_pairs(pairs, raw_scores=True))


def test_labels_that_apply_or_not(folder_of):
    model = minilm.load(folder_of(("a", "b", "c"), problem_type="multi_label_classification"))
    found, expected = answers_of(model, inputs_of(model, TEXTS, Tally())), model.classify(TEXTS)
    flags = [[name in one.labels for name in model.labels] for one in expected]
    np.testing.assert_array_equal(found.labels.reshape(-1, 3), flags)


def test_a_predicted_number(folder_of):
    model = minilm.load(folder_of(("a",)))
    found = answers_of(model, inputs_of(model, TEXTS, Tally()))
    assert found.labels is None
    assert found.numbers.tolist() == [one.score for one in model.classify(TEXTS)]


def test_tags_of_words(folder_of):
    """One for each word, not for pieces or special tokens."""
    model = minilm.load(folder_of(("O", "B-X", "I-X"), of="Token"))
    tags = [tag for one in model.tag(TEXTS) for tag in one.tags]
    found = answers_of(model, inputs_of(model, TEXTS, Tally()))
    assert len(found.labels) == 27
    assert found.numbers.shape == (81,)
    assert found.numbers.reshape(-1, 3).sum(1) == pytest.approx(1)
    assert len(tags) == 27


def test_answers_are_asked_with_the_first_words(task, tmp_path):
    import shutil

    from minilm.model.checkpoint import read_model, write_model

    folder = tmp_path / "m"
    shutil.copytree(task.model, folder)
    write_model(read_model(folder, head="span"), folder, head="span")
    model = minilm.load(folder)
    long = [" ".join(f"word{number}" for number in range(20))]
    inputs = inputs_of(model, long, Tally())
    assert inputs.token_ids[0].tolist().count(model.tokenizer.encode(["word3"], special_tokens=False)[0][0]) == 2
    found = answers_of(model, inputs)
    assert found.labels.shape == (2 * len(inputs.token_ids),)
    assert found.numbers.sum() == pytest.approx(2 * len(inputs.token_ids))


def test_truncated_texts_are_counted(task):
    tally = Tally()
    inputs_of(minilm.load(task.model), [*TEXTS, "word1 " * 100], tally)
    assert list(tally.sentences().values()) == [
        "1 of 10 texts were longer than 64 tokens and were truncated (first: text 9)"
    ]


def test_the_first_sequences(task):
    inputs = inputs_of(minilm.load(task.model), TEXTS, Tally())
    assert inputs.num_tokens == 45
    assert inputs.first(12).num_tokens == 10
    assert inputs.first(1).num_tokens == 5, "at least one"


def test_largest_inputs_are_those_of_all_texts(task):
    """The largest of two calls is that of one; the first map reads the embeddings."""
    import torch

    from minilm.model.checkpoint import read_model
    from minilm.model.packing import pack

    ids = inputs_of(minilm.load(task.model), TEXTS, Tally()).token_ids
    found, first, rest = (largest_inputs(task.model, part, None) for part in (ids, ids[:4], ids[4:]))
    assert len(found) == 12
    for name, largest in found.items():
        np.testing.assert_allclose(largest, np.maximum(first[name], rest[name]), rtol=1e-5)
    encoder = read_model(task.model).encoder
    with torch.no_grad():
        embedded = encoder.embeddings(pack([torch.from_numpy(one) for one in ids]))
    np.testing.assert_allclose(found["layers.0.qkv"], embedded.abs().amax(0).numpy(), rtol=1e-5)


def test_smoothing_makes_both_sides_equally_large():
    """Where a channel is not clipped, its largest input times the factor is its largest weight over the factor."""
    draw = np.random.default_rng(0)
    largest, weights = draw.uniform(5, 30, 8).astype(np.float32), [draw.normal(size=(5, 8)).astype(np.float32)] * 2
    factors = smoothing_of(largest, weights)
    np.testing.assert_allclose(largest * factors, np.abs(weights[0]).max(0) / factors, rtol=1e-5)
    assert factors.dtype == np.float32


def test_a_channel_that_was_never_seen_gets_no_huge_factor():
    """Another text may use it."""
    factors = smoothing_of(np.array([0, 1, 1, 1], np.float32), [np.ones((2, 4), np.float32)])
    assert factors[0] == pytest.approx(10**0.5, rel=1e-5)
    assert factors[1:].tolist() == [1, 1, 1]
    assert np.isfinite(smoothing_of(np.zeros(4, np.float32), [np.zeros((2, 4), np.float32)])).all()
