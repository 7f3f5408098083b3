"""Losses of text vectors: tensors in, one number out.

In: vectors before they are scaled to length 1, and what they are to agree with. Out: a loss that can be
differentiated. Those of sentence-transformers have its values: `infonce` is MultipleNegativesRankingLoss, `cosent`
CoSENTLoss, `cosine_mse` CosineSimilarityLoss, `margin_mse` MarginMSELoss, `list_kl` DistillKLDivLoss.

A loss that is a mean over rows takes the number of what it is the mean of, `count`: the losses of parts then add up to
that of the whole.

R rows, W width of a vector, M candidates of a batch, K candidates of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def unit(vectors: Tensor) -> Tensor:
    """Vectors scaled to length 1, `[..., W]`; a zero vector stays zero."""
    return functional.normalize(vectors, dim=-1)


def vector_distance(vectors_RW: Tensor, teacher_RW: Tensor, *, squared: bool, count: int) -> Tensor:
    """1 - cosine of each vector and the teacher's, or the squared Euclidean distance (LEAF, arXiv 2509.12539)."""
    if squared:
        return (vectors_RW - teacher_RW).square().sum() / count
    return (1 - (unit(vectors_RW) * unit(teacher_RW)).sum(1)).sum() / count


def similarity_distance(vectors_RW: Tensor, teacher_RW: Tensor) -> Tensor:
    """Mean squared difference of the matrices of cosines (Jasper and Stella, arXiv 2412.19048)."""
    student_RR, wanted_RR = (unit(one) @ unit(one).T for one in (vectors_RW, teacher_RW))
    return (student_RR - wanted_RR).square().mean()


def infonce(
    queries_RW: Tensor, documents_MW: Tensor, excluded_RM: Tensor, *, temperature: float, symmetric: bool
) -> Tensor:
    """Cross-entropy of finding the document of each query among all of the batch, by cosines over `temperature`.

    The first R documents are the positives, in order; the others are hard negatives of any query.

    Args:
        queries_RW: queries.
        documents_MW: documents.
        excluded_RM: True where a document is not a negative of a query, though not the positive of its row either.
        temperature: divides the cosines.
        symmetric: also find the query of each positive; the loss is the mean of both.
    """
    rows = len(queries_RW)
    scores_RM = unit(queries_RW) @ unit(documents_MW).T / temperature
    scores_RM = scores_RM.masked_fill(excluded_RM, -torch.inf)
    wanted = torch.arange(rows, device=scores_RM.device)
    loss = functional.cross_entropy(scores_RM, wanted)
    return (loss + functional.cross_entropy(scores_RM[:, :rows].T, wanted)) / 2 if symmetric else loss


def cosent(cosines_R: Tensor, scores_R: Tensor, *, temperature: float) -> Tensor:
    """log(1 + sum of exp((cos_i - cos_j) / temperature)) over all pairs with score_i < score_j."""
    scaled_R = cosines_R / temperature
    differences_RR = scaled_R[:, None] - scaled_R[None, :]
    wrong_RR = scores_R[:, None] < scores_R[None, :]
    terms = differences_RR.masked_fill(~wrong_RR, -torch.inf).flatten()
    return torch.logsumexp(torch.cat([terms.new_zeros(1), terms]), dim=0)


def cosine_mse(cosines_R: Tensor, scores_R: Tensor, *, count: int) -> Tensor:
    """Squared difference of cosine and score."""
    return (cosines_R - scores_R).square().sum() / count


def margin_mse(similarities_RK: Tensor, scores_RK: Tensor, *, count: int) -> Tensor:
    """Squared difference of the margins of positive (the first) and negatives: those of the vectors, of the teacher.

    Candidates that a row does not have are NaN in `scores_RK`.
    """
    margins = (similarities_RK[:, :1] - similarities_RK[:, 1:]) - (scores_RK[:, :1] - scores_RK[:, 1:])
    return torch.where(scores_RK[:, 1:].isnan(), 0.0, margins).square().sum() / count


def list_kl(similarities_RK: Tensor, scores_RK: Tensor, *, temperature: float, count: int) -> Tensor:
    """KL(teacher || student) of softmax(similarities / temperature) of each row, times its square.

    Candidates that a row does not have are NaN in `scores_RK`.
    """
    absent_RK = scores_RK.isnan()
    student_RK = (similarities_RK / temperature).masked_fill(absent_RK, -torch.inf).log_softmax(1)
    teacher_RK = (scores_RK / temperature).masked_fill(absent_RK, -torch.inf).log_softmax(1)
    terms = teacher_RK.exp() * (teacher_RK - student_RK)
    return torch.where(absent_RK, 0.0, terms).sum() * temperature**2 / count
