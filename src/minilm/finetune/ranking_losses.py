"""Losses of rerankers, with the numbers of sentence-transformers' cross-encoders.

In: the scores of the texts of a list, before any activation, and what they should be. Out: the sum of the terms of the
list, and their number, which depends on the targets alone; the loss of a step is the sum of all terms over their
number.

L texts of a list; for a loss of single texts, of any number of lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from minilm.tasks.rerank.settings import OVER_LISTS, RerankLoss, RerankSettings

_MU = 10.0  # weight of NDCG-Loss2 in NDCG-Loss2++
_LEAST_DCG = 1e-10


@dataclass(frozen=True, kw_only=True)
class RankingLoss:
    """A loss.

    Attributes:
        total: the sum of the terms, from scores and targets, `[L]` each.
        num_terms: their number, from the targets.
        over_lists: the texts of a list are compared; otherwise a term depends on a single text.
    """

    total: Callable[[Tensor, Tensor], Tensor]
    num_terms: Callable[[NDArray[np.float32]], int]
    over_lists: bool


def ranking_loss(settings: RerankSettings) -> RankingLoss:
    """The loss of a task."""
    totals: dict[RerankLoss, Callable[[Tensor, Tensor], Tensor]] = {
        "bce": partial(functional.binary_cross_entropy_with_logits, reduction="sum"),
        "mse": partial(functional.mse_loss, reduction="sum"),
        "margin_mse": _margin_total,
        "kl": partial(_divergence, temperature=settings.temperature),
        "lambda": lambda_total,
    }
    counts: dict[RerankLoss, Callable[[NDArray[np.float32]], int]] = {
        "margin_mse": lambda targets_L: len(targets_L) - 1,
        "kl": lambda targets_L: 1,
        "lambda": lambda targets_L: int((targets_L[:, None] > targets_L).sum()),
    }
    name = settings.loss
    return RankingLoss(total=totals[name], num_terms=counts.get(name, len), over_lists=name in OVER_LISTS)


def _margin_total(scores_L: Tensor, targets_L: Tensor) -> Tensor:
    """Squared errors of the distances from the first text, the positive, to each other one."""
    return functional.mse_loss(scores_L[0] - scores_L[1:], targets_L[0] - targets_L[1:], reduction="sum")


def _divergence(scores_L: Tensor, targets_L: Tensor, *, temperature: float) -> Tensor:
    """KL(softmax(targets / t) || softmax(scores / t)) t²; for t = 1 the gradient is that of ListNet."""
    teacher_L, student_L = (functional.log_softmax(part / temperature, -1) for part in (targets_L, scores_L))
    return functional.kl_div(student_L, teacher_L, reduction="sum", log_target=True) * temperature**2


def lambda_total(scores_L: Tensor, labels_L: Tensor) -> Tensor:
    """LambdaLoss with the weights NDCG-Loss2++ (Wang et al. 2018): a term for each pair of texts with different labels.

    A term is weight x log2 of the probability that the more relevant text is above the other. The weight is how much
    the pair changes the nDCG, at its ranks (LambdaRank) and at the distance of its ranks (NDCG-Loss2).
    """
    order = scores_L.detach().argsort(descending=True, stable=True)
    scores_L, labels_L = scores_L[order], labels_L[order]
    ranks_L = torch.arange(1, len(scores_L) + 1, dtype=scores_L.dtype, device=scores_L.device)
    discounts_L = 1 / torch.log2(1 + ranks_L)
    gains_L = torch.exp2(labels_L) - 1
    best = (gains_L.sort(descending=True).values * discounts_L).sum().clamp(min=_LEAST_DCG)
    gains_LL = (gains_L[:, None] - gains_L).abs() / best
    distance_LL = (ranks_L[:, None] - ranks_L).abs()
    at_distance_LL = 1 / torch.log2(1 + distance_LL) - 1 / torch.log2(2 + distance_LL)
    weights_LL = gains_LL * (_MU * at_distance_LL.fill_diagonal_(0) + (discounts_L[:, None] - discounts_L).abs())
    logs_LL = functional.logsigmoid(scores_L[:, None] - scores_L) / math.log(2)
    return -(weights_LL * logs_LL)[labels_L[:, None] > labels_L].sum()
