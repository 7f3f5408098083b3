"""Losses and gradients of rerankers are those of sentence-transformers' cross-encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.finetune.ranking_losses import ranking_loss
from minilm.tasks.rerank.settings import RerankSettings

cross_encoder = pytest.importorskip("sentence_transformers.cross_encoder")
losses = pytest.importorskip("sentence_transformers.cross_encoder.losses")


class Fixed(cross_encoder.CrossEncoder):
    """A cross-encoder whose scores are weights: the text of a pair is the number of its score."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, scores: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.scores = torch.nn.Parameter(scores.clone())

    def preprocess(self, pairs, **_: object):
        return {"texts": torch.tensor([int(text) for _, text in pairs])}

    def forward(self, features):
        return {"scores": self.scores[features["texts"]][:, None]}


SIZES = st.lists(st.integers(2, 7), min_size=1, max_size=4)


@st.composite
def steps(draw, *, sizes=SIZES, labels=None):
    """Scores and targets of some lists; no two scores are equal, so that there is one order."""
    chosen = draw(sizes)
    count = sum(chosen)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = torch.from_numpy(generator.permutation(count) * 0.37 + generator.uniform(0, 0.3, count) - 2).float()
    targets = labels(generator, count) if labels else generator.normal(0, 5, count)
    return scores, torch.from_numpy(np.asarray(targets)).float(), chosen


def ours(name, scores, targets, sizes, **options):
    """Loss of a step and its gradient for each score."""
    loss = ranking_loss(RerankSettings(name="parity", loss=name, **options))
    scores = scores.clone().requires_grad_()
    lists = list(zip(scores.split(sizes), targets.split(sizes), strict=True))
    value = sum(loss.total(*one) for one in lists) / max(1, sum(loss.num_terms(part.numpy()) for _, part in lists))
    value.backward()
    return value.detach(), scores.grad


def theirs(loss, scores, inputs, labels):
    model = Fixed(scores)
    value = loss(model)(inputs, labels)
    value.backward()
    return value.detach(), model.scores.grad


def assert_equal(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


def texts_of(sizes):
    numbers = iter(range(sum(sizes)))
    return [[str(next(numbers)) for _ in range(size)] for size in sizes]


def grades(generator, count):
    return generator.integers(0, 4, count)


def shares(generator, count):
    return generator.uniform(0, 1, count)


@given(step=steps(labels=shares))
@settings(max_examples=20)
def test_bce(step):
    scores, targets, sizes = step
    inputs = [["q"] * len(scores), [str(number) for number in range(len(scores))]]
    assert_equal(ours("bce", scores, targets, sizes), theirs(losses.BinaryCrossEntropyLoss, scores, inputs, targets))


@given(step=steps())
@settings(max_examples=20)
def test_mse(step):
    scores, targets, sizes = step
    inputs = [["q"] * len(scores), [str(number) for number in range(len(scores))]]
    assert_equal(ours("mse", scores, targets, sizes), theirs(losses.MSELoss, scores, inputs, targets))


@given(step=steps(sizes=st.tuples(st.integers(1, 4), st.integers(2, 6)).map(lambda shape: [shape[1]] * shape[0])))
@settings(max_examples=20)
def test_margin_mse(step):
    """Theirs needs as many negatives in each row."""
    scores, targets, sizes = step
    columns = [list(column) for column in zip(*texts_of(sizes), strict=True)]
    labels = list(targets.split(sizes))
    expected = theirs(losses.MarginMSELoss, scores, [["q"] * len(sizes), *columns], labels)
    assert_equal(ours("margin_mse", scores, targets, sizes), expected)


@given(step=steps())
@settings(max_examples=20)
def test_kl(step):
    """The gradient of ListNet, and its loss without the entropy of the targets."""
    scores, targets, sizes = step
    labels = list(targets.split(sizes))
    entropy = torch.stack([torch.distributions.Categorical(logits=part).entropy() for part in labels]).mean()
    value, gradient = theirs(losses.ListNetLoss, scores, [["q"] * len(sizes), texts_of(sizes)], labels)
    assert_equal(ours("kl", scores, targets, sizes), (value - entropy, gradient))


@given(step=steps(), temperature=st.floats(0.5, 4))
@settings(max_examples=20)
def test_kl_with_a_temperature_is_that_of_scaled_scores(step, temperature):
    """As in DistillKLDivLoss of sentence-transformers' bi-encoders."""
    scores, targets, sizes = step
    value, gradient = ours("kl", scores / temperature, targets / temperature, sizes)
    found = ours("kl", scores, targets, sizes, temperature=temperature)
    assert_equal(found, (value * temperature**2, gradient * temperature))


def assert_lambda(step):
    scores, targets, sizes = step
    labels = list(targets.split(sizes))
    expected = theirs(losses.LambdaLoss, scores, [["q"] * len(sizes), texts_of(sizes)], labels)
    assert_equal(ours("lambda", scores, targets, sizes), expected)


@given(step=steps(labels=grades))
@settings(max_examples=40)
def test_lambda(step):
    assert_lambda(step)


@given(step=steps(labels=lambda generator, count: generator.choice([0, 0.5, 1.5, 2], count)))
@settings(max_examples=10)
def test_lambda_with_labels_between_grades(step):
    assert_lambda(step)
