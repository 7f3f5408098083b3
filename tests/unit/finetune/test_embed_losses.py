"""Losses and gradients of text vectors are those of sentence-transformers, or of a plain twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minilm.finetune import embed_losses as ours

losses = pytest.importorskip(
    "sentence_transformers.sentence_transformer.losses", reason="the reference: pip install 'minilm[dev]'"
)
ROWS, WIDTH, NEGATIVES = 6, 8, 3


class FakeModel(torch.nn.Module):
    device = torch.device("cpu")

    def get_embedding_dimension(self) -> int:
        return WIDTH


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def require_equal(mine: Tensor, reference: Tensor, *leaves: Tensor) -> None:
    assert mine.item() == pytest.approx(reference.item(), rel=1e-5)
    for one, other in zip(torch.autograd.grad(mine, leaves), torch.autograd.grad(reference, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def cosines(one: Tensor, other: Tensor) -> Tensor:
    return (ours.unit(one) * ours.unit(other)).sum(1)


@pytest.mark.parametrize("squared", [False, True])
def test_distance_to_vectors_of_a_teacher(squared):
    vectors, teacher = drawn(ROWS, WIDTH), drawn(ROWS, WIDTH, seed=1).detach()
    loss = losses.EmbedDistillLoss(FakeModel(), distance_metric="mse" if squared else "cosine")
    reference = loss.compute_loss_from_embeddings([vectors], [teacher]) * (WIDTH if squared else 1)
    require_equal(ours.vector_distance(vectors, teacher, squared=squared, count=ROWS), reference, vectors)


def test_distance_of_similarities():
    vectors, teacher = drawn(ROWS, WIDTH), drawn(ROWS, WIDTH + 2, seed=1).detach()
    cosine = torch.nn.functional.cosine_similarity
    pairs = [(a, b) for a in range(ROWS) for b in range(ROWS)]
    reference = sum(
        (cosine(vectors[a], vectors[b], dim=0) - cosine(teacher[a], teacher[b], dim=0)).square() for a, b in pairs
    )
    require_equal(ours.similarity_distance(vectors, teacher), reference / len(pairs), vectors)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("negatives", [0, NEGATIVES])
def test_infonce(symmetric, negatives):
    queries, positives = drawn(ROWS, WIDTH), drawn(ROWS, WIDTH, seed=1)
    hard = [drawn(ROWS, WIDTH, seed=2 + number) for number in range(negatives)]
    more = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"} if symmetric else {}
    loss = losses.MultipleNegativesRankingLoss(FakeModel(), scale=12.5, **more)
    documents = torch.cat([positives, *hard])
    reference = loss.compute_loss_from_embeddings([queries, positives, *hard], None)
    mine = ours.infonce(queries, documents, excluded(len(documents)), temperature=0.08, symmetric=symmetric)
    require_equal(mine, reference, queries, positives, *hard)


def excluded(documents: int, *pairs: tuple[int, int], rows: int = ROWS) -> ours.Excluded:
    """Queries are the texts 0, 1, ..., documents those that follow."""
    return ours.Excluded(
        rows=torch.arange(rows),
        columns=torch.arange(rows, rows + documents),
        pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
        num_texts=rows + documents,
    )


def test_infonce_without_a_document_is_that_of_the_others():
    queries, documents = drawn(2, WIDTH), drawn(4, WIDTH, seed=1)
    without = excluded(4, (0, 2 + 1), (1, 2 + 3), (1, 2 + 1), rows=2)  # the last is the own one of its row
    mine = ours.infonce(queries, documents, without, temperature=1.0, symmetric=False)
    scores = ours.unit(queries) @ ours.unit(documents).T
    rows = [torch.logsumexp(scores[0, [0, 2, 3]], 0) - scores[0, 0], torch.logsumexp(scores[1, :3], 0) - scores[1, 1]]
    require_equal(mine, torch.stack(rows).mean(), queries, documents)


def plain_infonce(queries: Tensor, documents: Tensor, mask: Tensor, symmetric: bool) -> Tensor:
    """All scores at once."""
    scores = (ours.unit(queries) @ ours.unit(documents).T / 0.05).masked_fill(mask, -torch.inf)
    own = torch.arange(len(queries))
    loss = torch.nn.functional.cross_entropy(scores, own)
    return (loss + torch.nn.functional.cross_entropy(scores[:, : len(own)].T, own)) / 2 if symmetric else loss


class LargestTensor(TorchDispatchMode):
    """The number of values of the largest tensor that is made."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        self.count = max([self.count, *(one.numel() for one in tree_leaves(made) if isinstance(one, Tensor))])
        return made


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("block", [1, 7, 60])
def test_infonce_in_blocks_is_that_of_all_scores_and_its_memory_is_linear(
    symmetric, dtype, tolerance, block, monkeypatch
):
    """With equal texts and known positives, blocks that do not divide the rows, and a last one."""
    rows, documents = 40, 100
    monkeypatch.setattr(ours, "_SCORES_PER_BLOCK", block * documents)
    vectors = [drawn(rows, WIDTH).to(dtype), drawn(documents, WIDTH, seed=1).to(dtype)]
    generator = torch.Generator().manual_seed(2)
    texts = torch.randint(50, (rows + documents,), generator=generator)
    pairs = torch.randint(50, (80, 2), generator=generator)
    found = ours.Excluded(rows=texts[:rows], columns=texts[rows:], pairs=pairs, num_texts=rows + documents)
    known = {tuple(pair) for pair in pairs.tolist()}
    mask = torch.tensor([[(row, column) in known for column in found.columns.tolist()] for row in found.rows.tolist()])
    mask[torch.arange(rows), torch.arange(rows)] = False
    assert 20 < mask.sum() < 1000
    with LargestTensor() as largest:
        mine = ours.infonce(*vectors, found, temperature=0.05, symmetric=symmetric)
        gradients = torch.autograd.grad(mine, vectors)
    reference = plain_infonce(*vectors, mask, symmetric)
    assert mine.item() == pytest.approx(reference.item(), rel=tolerance)
    for one, other in zip(gradients, torch.autograd.grad(reference, vectors), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())
    if block == 1:
        assert largest.count <= max(documents * WIDTH, 4 * (rows + documents)), "no matrix of rows and documents"


def test_cosent_with_equal_scores():
    one, other = drawn(ROWS, WIDTH), drawn(ROWS, WIDTH, seed=1)
    scores = torch.tensor([0.1, 0.9, 0.1, 0.5, 0.5, 1.0])
    reference = losses.CoSENTLoss(FakeModel(), scale=20.0).compute_loss_from_embeddings([one, other], scores)
    require_equal(ours.cosent(cosines(one, other), scores, temperature=0.05), reference, one, other)


def test_cosine_mse():
    one, other, scores = drawn(ROWS, WIDTH), drawn(ROWS, WIDTH, seed=1), torch.linspace(0, 1, ROWS)
    reference = losses.CosineSimilarityLoss(FakeModel()).compute_loss_from_embeddings([one, other], scores)
    require_equal(ours.cosine_mse(cosines(one, other), scores, count=ROWS), reference, one, other)


def lists() -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    query = drawn(ROWS, WIDTH)
    candidates = [drawn(ROWS, WIDTH, seed=1 + number) for number in range(1 + NEGATIVES)]
    scores = drawn(ROWS, 1 + NEGATIVES, seed=9).detach() * 3
    return query, candidates, scores, torch.stack([(query * one).sum(1) for one in candidates], dim=1)


def test_margin_mse():
    query, candidates, scores, similarities = lists()
    reference = losses.MarginMSELoss(FakeModel()).compute_loss_from_embeddings([query, *candidates], scores)
    require_equal(ours.margin_mse(similarities, scores, count=ROWS * NEGATIVES), reference, query, *candidates)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_list_kl(temperature):
    query, candidates, scores, similarities = lists()
    loss = losses.DistillKLDivLoss(FakeModel(), temperature=temperature)
    reference = loss.compute_loss_from_embeddings([query, *candidates], scores)
    require_equal(
        ours.list_kl(similarities, scores, temperature=temperature, count=ROWS), reference, query, *candidates
    )


def test_candidates_that_a_row_does_not_have_change_nothing():
    similarities, scores = drawn(2, 4), drawn(2, 4, seed=1).detach()
    padded = scores.clone()
    padded[1, 2:] = torch.nan
    for loss in (ours.margin_mse, ours.list_kl):
        more = {"temperature": 1.0} if loss is ours.list_kl else {}
        parts = [
            loss(similarities[:1], scores[:1], count=5, **more),
            loss(similarities[1:, :2], scores[1:, :2], count=5, **more),
        ]
        require_equal(loss(similarities, padded, count=5, **more), parts[0] + parts[1], similarities)
