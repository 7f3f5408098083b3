"""How far a student relates tokens as its teacher does, for each relation head.

In: the `Relations` of a teacher layer and of the student's last layer, over the same packed tokens.
Out: for each pair and head the KL divergence of the softmax-relations that the loss compares, and the agreement: the
share of rows whose strongest relation is to the same token. Then the numbers of a student by their names in
`metrics.jsonl`.

P pairs, R relation heads, N tokens of one sequence, E width of a projection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minilm.distill.relation_loss import Pair, log_relation
from minilm.model.encoder import Relations
from minilm.model.packing import Packed

MAX_DOCUMENTS = 16
"""Held-out documents that agreement is measured on, at most."""
_ENTRIES = 2**22  # of relation matrices in memory at a time

_OF_PAIR = re.compile(r"(?:^|\.)(query|key|value)-(query|key|value)(\.head(?P<head>\d+))?\.(agreement|kl)$")


def relation_agreement(
    teacher: Relations, student: Relations, packed: Packed, *, pairs: Sequence[Pair], num_relation_heads: int
) -> Tensor:
    """KL(teacher || student) and agreement of each head, `[P, 2, R]` float64.

    Both are means over the rows of a sequence, summed over the sequences of the batch. Where a projection is related to
    itself, as in v2, the strongest relation of a token is nearly always that to itself: it does not count.
    """
    totals = torch.zeros(len(pairs), 2, num_relation_heads, dtype=torch.float64)
    for index, (a, b) in enumerate(pairs):
        sides = [getattr(side, part).flatten(1).split(packed.lengths) for side in (teacher, student) for part in (a, b)]
        for sequence, length in enumerate(packed.lengths):
            rows = [part[sequence].float() for part in sides]
            count = max(1, _ENTRIES // length**2)
            for first in range(0, num_relation_heads, count):
                heads = slice(first, min(first + count, num_relation_heads))
                target, found = (
                    _log_relation_of(a_NE, b_NE, heads, num_relation_heads) for a_NE, b_NE in (rows[:2], rows[2:])
                )
                divergence = (target.exp() * (target - found)).sum(-1).mean(-1)
                same = (_strongest(target, without_self=a == b) == _strongest(found, without_self=a == b)).double()
                totals[index, 0, heads] += divergence.to(totals)
                totals[index, 1, heads] += same.mean(-1).to(totals)
    return totals


def _log_relation_of(a_NE: Tensor, b_NE: Tensor, heads: slice, num_heads: int) -> Tensor:
    """The log-relation of some of the heads."""
    width = a_NE.shape[1] // num_heads
    columns = slice(heads.start * width, heads.stop * width)
    return log_relation(a_NE[:, columns], b_NE[:, columns], heads.stop - heads.start)


def _strongest(relation_RNN: Tensor, *, without_self: bool) -> Tensor:
    """The token that each row relates to most, `[R, N]`."""
    if without_self:
        relation_RNN = relation_RNN.clone()
        relation_RNN.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    return relation_RNN.argmax(-1)


def agreement_numbers(student: str, pairs: Sequence[Pair], found: Tensor) -> dict[str, float]:
    """The numbers of a student by name: the mean over pairs and heads, of each pair, and of each head from 1.

    Args:
        student: its name.
        pairs: the pairs of projections.
        found: KL and agreement of each head, or sums of them, `[P, 2, R]`.
    """
    numbers = {f"{student}.agreement": float(found[:, 1].mean())}
    for (a, b), of_pair in zip(pairs, found, strict=True):
        for measure, of_heads in zip(("kl", "agreement"), of_pair.tolist(), strict=True):
            numbers[f"{student}.{a}-{b}.{measure}"] = sum(of_heads) / len(of_heads)
            for head, value in enumerate(of_heads, start=1):
                numbers[f"{student}.{a}-{b}.head{head}.{measure}"] = value
    return numbers


def agreement_keys(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """The names of the agreement of each student and pair in the lines of a run."""
    keys = dict.fromkeys(key for row in metrics for key in row)
    return [key for key in keys if key.endswith(".agreement") and _OF_PAIR.search(key) and not is_of_head(key)]


def is_of_head(name: str) -> bool:
    """Whether a number is that of a single relation head."""
    found = _OF_PAIR.search(name)
    return found is not None and found["head"] is not None


def is_of_training(name: str) -> bool:
    """Whether a number is a part of the loss of training: of a pair of projections, hidden rows or masked tokens."""
    part = name.rpartition(".")[2]
    return "-" in part or part in ("hidden", "mlm")


def summarized(numbers: Mapping[str, float]) -> dict[str, float]:
    """Held-out numbers without those of single pairs and heads, which are in `metrics.jsonl`."""
    return {name: value for name, value in numbers.items() if _OF_PAIR.search(name) is None}
