"""Losses of cut vectors (Matryoshka) and their gradients are those of sentence-transformers, or of a plain twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from minilm.finetune.embed_losses import list_kl, margin_mse
from minilm.finetune.embed_objectives import Targets, loss_of
from minilm.tasks.embed.settings import EmbedSettings, LossName

losses = pytest.importorskip(
    "sentence_transformers.sentence_transformer.losses", reason="the reference: pip install 'minilm[dev]'"
)
ROWS, WIDTH, NEGATIVES = 6, 8, 3
SIZES = (8, 2, 5)
TEXTS: dict[LossName, int] = {"vectors": 1, "cosent": 2, "cosine": 2, "infonce": 5, "margin_mse": 5, "kl": 5}
"""Texts of a row, by loss that sentence-transformers has; a query, its positive and three negatives."""


class Given(torch.nn.Module):
    """A model whose vectors are given."""

    device = torch.device("cpu")

    def get_embedding_dimension(self) -> int:
        return WIDTH

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["vectors"]}


def settings_of(loss: LossName, **more: object) -> EmbedSettings:
    teacher = "teacher" if loss in ("vectors", "similarities") else None
    return EmbedSettings(name="cut", loss=loss, teacher=teacher, dimensions=SIZES, **more)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def targets_of(loss: LossName) -> tuple[Targets, Tensor]:
    """Targets of rows whose texts are consecutive, and the labels of the library."""
    if loss in ("vectors", "similarities"):
        teacher = drawn(ROWS, WIDTH, seed=1)
        return {"teacher": teacher}, teacher
    if loss in ("cosent", "cosine"):
        scores = torch.linspace(0, 1, ROWS)
        return {"scores": scores}, scores
    places = torch.arange(ROWS * TEXTS[loss]).reshape(ROWS, -1)
    if loss == "infonce":
        documents = places[:, 1:].T.flatten()
        none = torch.zeros(0, 2, dtype=torch.int64)
        texts = {"query texts": places[:, 0], "document texts": documents, "excluded": none}
        return {"queries": places[:, 0], "documents": documents, **texts}, none
    scores = drawn(ROWS, 1 + NEGATIVES, seed=2)
    return {"queries": places[:, 0], "candidates": places[:, 1:], "scores": scores}, scores


def count_of(loss: LossName) -> int:
    """How many terms the loss is the mean of."""
    return ROWS * NEGATIVES if loss == "margin_mse" else ROWS


def require_equal(settings: EmbedSettings, reference: Tensor, vectors: Tensor, targets: Targets) -> None:
    found = loss_of(settings, count=count_of(settings.loss))(vectors, targets)
    assert found.item() == pytest.approx(reference.item(), rel=1e-5)
    one, other = (torch.autograd.grad(loss, vectors)[0] for loss in (found, reference))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "theirs", "more"),
    [
        ("vectors", lambda model: losses.EmbedDistillLoss(model, distance_metric="cosine"), {}),
        ("infonce", losses.MultipleNegativesRankingLoss, {}),
        (
            "infonce",
            lambda model: losses.MultipleNegativesRankingLoss(
                model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
            ),
            {"symmetric": True},
        ),
        ("cosent", losses.CoSENTLoss, {}),
        ("cosine", losses.CosineSimilarityLoss, {}),
        ("margin_mse", losses.MarginMSELoss, {}),
        ("kl", losses.DistillKLDivLoss, {}),
    ],
)
def test_the_sum_over_cut_vectors_is_that_of_matryoshka_loss(loss, theirs, more):
    vectors = drawn(ROWS * TEXTS[loss], WIDTH).requires_grad_()
    targets, labels = targets_of(loss)
    model = Given()
    columns = [{"vectors": column} for column in vectors.reshape(ROWS, TEXTS[loss], WIDTH).unbind(1)]
    reference = losses.MatryoshkaLoss(model, theirs(model), SIZES)(columns, labels)
    require_equal(settings_of(loss, **more), reference, vectors, targets)


def test_cut_vectors_learn_the_similarities_of_whole_ones():
    vectors, (targets, teacher) = drawn(ROWS, WIDTH).requires_grad_(), targets_of("similarities")
    wanted = cosine_similarity(teacher[:, None], teacher[None], dim=2)
    cuts = [vectors[:, :size] for size in SIZES]
    reference = sum((cosine_similarity(cut[:, None], cut[None], dim=2) - wanted).square().mean() for cut in cuts)
    require_equal(settings_of("similarities"), reference, vectors, targets)


@pytest.mark.parametrize("loss", ["vectors", "margin_mse", "kl"])
def test_where_vectors_keep_their_length_cut_ones_do_so_too(loss):
    """As the model gives them; MatryoshkaLoss scales them to length 1."""
    more = {"distance": "l2"} if loss == "vectors" else {"normalize": False}
    vectors, (targets, labels) = drawn(ROWS * TEXTS[loss], WIDTH).requires_grad_(), targets_of(loss)
    parts = []
    for size in SIZES:
        cut = vectors[:, :size].reshape(ROWS, TEXTS[loss], size)
        dots = (cut[:, :1] * cut[:, 1:]).sum(2)
        if loss == "vectors":
            parts.append((cut[:, 0] - labels[:, :size]).square().sum() / ROWS)
        elif loss == "margin_mse":
            parts.append(margin_mse(dots, labels, count=count_of(loss)))
        else:
            parts.append(list_kl(dots, labels, temperature=1.0, count=ROWS))
    require_equal(settings_of(loss, **more), torch.stack(parts).sum(), vectors, targets)
