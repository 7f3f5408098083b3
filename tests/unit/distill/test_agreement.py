"""Agreement with the teacher is that of plain loops, for every pair and head, however it is cut; names are readable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from minilm.distill import agreement
from minilm.distill.agreement import agreement_numbers, is_of_head, relation_agreement, summarized
from minilm.distill.relation_loss import Pair, relation_loss_reference
from minilm.model.encoder import Relations
from minilm.model.packing import Packed, pack

LENGTHS = (7, 1, 4)
PAIRS: tuple[Pair, ...] = (("query", "key"), ("value", "value"))
HEADS = 3


def relations(width: int, seed: int) -> Relations:
    random = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(sum(LENGTHS), 2, width // 2, generator=random) for _ in range(3))
    return Relations(query=query, key=key, value=value)


@pytest.fixture
def packed() -> Packed:
    return pack([np.arange(length) for length in LENGTHS])


def relation(side: Relations, pair: Pair, rows: slice, head: int) -> np.ndarray:
    """The matrix of one head, in plain float64."""
    a, b = (getattr(side, part).flatten(1)[rows].double().numpy() for part in pair)
    width = a.shape[1] // HEADS
    scores = a[:, head * width : (head + 1) * width] @ b[:, head * width : (head + 1) * width].T / math.sqrt(width)
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def strongest(row: Sequence[float], number: int, *, without_self: bool) -> int:
    places = [place for place in range(len(row)) if not (without_self and place == number)]
    return max(places, key=lambda place: row[place], default=0)


def plainly(teacher: Relations, student: Relations) -> np.ndarray:
    totals = np.zeros((len(PAIRS), 2, HEADS))
    for index, pair in enumerate(PAIRS):
        start = 0
        for length in LENGTHS:
            rows = slice(start, start + length)
            start += length
            for head in range(HEADS):
                target, found = (relation(side, pair, rows, head) for side in (teacher, student))
                totals[index, 0, head] += (target * np.log(target / found)).sum(1).mean()
                same = [
                    strongest(target[row], row, without_self=pair[0] == pair[1])
                    == strongest(found[row], row, without_self=pair[0] == pair[1])
                    for row in range(length)
                ]
                totals[index, 1, head] += np.mean(same)
    return totals


@pytest.mark.parametrize("entries", [2**22, 20], ids=["all heads at once", "one head at a time"])
def test_it_is_that_of_plain_loops(packed, monkeypatch, entries):
    """Teacher and student differ in width; a document of one token counts as agreed."""
    monkeypatch.setattr(agreement, "_ENTRIES", entries)
    teacher, student = relations(24, 0), relations(12, 1)
    found = relation_agreement(teacher, student, packed, pairs=PAIRS, num_relation_heads=HEADS)
    np.testing.assert_allclose(found.numpy(), plainly(teacher, student), rtol=1e-5)
    assert 1 <= found[:, 1].min() < found[:, 1].max() < 3, "not all of the other two documents"


def test_its_divergence_is_the_loss(packed):
    teacher, student = relations(24, 0), relations(12, 1)
    found = relation_agreement(teacher, student, packed, pairs=PAIRS, num_relation_heads=HEADS)
    expected = relation_loss_reference(teacher, student, packed, pairs=PAIRS, num_relation_heads=HEADS)
    assert (found[:, 0].mean(1) / len(LENGTHS)).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_relation_of_a_token_to_itself_does_not_count():
    """Long vectors in all directions: each token is strongest with itself on both sides, which says nothing."""
    eye = torch.eye(4) * 9
    near, far = eye.clone(), eye.clone()
    near[0, 1], far[0, 2] = 4.0, 4.0  # the second strongest of token 0
    sides = [Relations(query=rows[:, None], key=rows[:, None], value=rows[:, None]) for rows in (near, far)]
    batch = pack([np.arange(4)])
    same = relation_agreement(*sides, batch, pairs=(("value", "value"),), num_relation_heads=1)[0, 1, 0]
    assert float(same) < 1.0
    itself = relation_agreement(sides[0], sides[0], batch, pairs=PAIRS, num_relation_heads=1)
    assert itself[:, 0].abs().max() < 1e-6
    assert itself[:, 1].tolist() == [[1.0], [1.0]]


def test_numbers_have_readable_names_and_the_run_returns_the_summary():
    means = torch.tensor([[[0.1, 0.3], [0.5, 1.0]], [[0.2, 0.2], [0.25, 0.25]]], dtype=torch.float64)
    numbers = agreement_numbers("b.c", PAIRS, means)
    assert numbers["b.c.agreement"] == pytest.approx(0.5)
    assert numbers["b.c.query-key.kl"] == pytest.approx(0.2)
    assert numbers["b.c.query-key.head2.kl"] == pytest.approx(0.3)
    assert numbers["b.c.value-value.head1.agreement"] == pytest.approx(0.25)
    assert len(numbers) == 1 + 2 * 2 * 3
    assert [name for name in numbers if is_of_head(name)] == [name for name in numbers if ".head" in name]
    assert is_of_head("query-key.head2.kl"), "as compared runs name it, without the only student"
    assert summarized({**numbers, "b.c.heldout_loss": 1.0}).keys() == {"b.c.agreement", "b.c.heldout_loss"}
    assert summarized({"x-y.agreement": 1.0}), "a student's name may have a hyphen"
