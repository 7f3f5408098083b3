"""Losses of text vectors: tensors in, one number out.

In: vectors before they are scaled to length 1, and what they are to agree with. Out: a loss that can be
differentiated. Those of sentence-transformers have its values: `infonce` is MultipleNegativesRankingLoss, `cosent`
CoSENTLoss, `cosine_mse` CosineSimilarityLoss, `margin_mse` MarginMSELoss, `list_kl` DistillKLDivLoss.

A loss that is a mean over rows takes the number of what it is the mean of, `count`: the losses of parts then add up to
that of the whole.

R rows, b rows of a block, W width of a vector, M columns (documents of a batch), K candidates of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_SCORES_PER_BLOCK = 2**22  # of rows and columns that are in memory at once


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


@dataclass(frozen=True, kw_only=True)
class Excluded:
    """Which columns are not negatives of a row, by the texts that they are.

    Attributes:
        rows: `[R]` the text of each row, as a number below `num_texts`; equal texts have one number.
        columns: `[M]` those of the columns, of which the first R belong to the rows.
        pairs: `[P, 2]` texts of rows, each with a text that is not a negative of it.
        num_texts: of the batch.
    """

    rows: Tensor
    columns: Tensor
    pairs: Tensor
    num_texts: int

    def transposed(self) -> Excluded:
        """The same for the first R columns as rows, and the rows as columns."""
        rows, columns = self.columns[: len(self.rows)], self.rows
        return Excluded(rows=rows, columns=columns, pairs=self.pairs.flip(1), num_texts=self.num_texts)

    def of_rows(self, start: int, stop: int) -> Tensor:
        """`[stop - start, M]`, True where a column is not a negative of a row, nor its own column."""
        texts, device = self.rows[start:stop], self.rows.device
        numbers = torch.arange(len(texts), device=device)
        row_of = torch.full((self.num_texts,), len(texts), device=device)  # the last one, unless a text is among these
        row_of[texts] = numbers
        table = torch.zeros(len(texts) + 1, self.num_texts, dtype=torch.bool, device=device)
        table[row_of[self.pairs[:, 0]], self.pairs[:, 1]] = True
        found = table[row_of[texts]][:, self.columns]
        found[numbers, start + numbers] = False
        return found


def infonce(
    queries_RW: Tensor, documents_MW: Tensor, excluded: Excluded, *, temperature: float, symmetric: bool
) -> Tensor:
    """Cross-entropy of finding the document of each query among all of the batch, by cosines over `temperature`.

    The first R documents are the positives, in order; the others are hard negatives of any query. Memory is linear in
    R and M.

    Args:
        queries_RW: queries.
        documents_MW: documents.
        excluded: the documents that are not negatives of a query.
        temperature: divides the cosines.
        symmetric: also find the query of each positive; the loss is the mean of both.
    """
    queries_RW, documents_MW = unit(queries_RW), unit(documents_MW)
    loss = _find(queries_RW, documents_MW, excluded, temperature)
    if not symmetric:
        return loss
    return (loss + _find(documents_MW[: len(queries_RW)], queries_RW, excluded.transposed(), temperature)) / 2


def _find(rows_RW: Tensor, columns_MW: Tensor, excluded: Excluded, temperature: float) -> Tensor:
    """Mean cross-entropy of the own column of each row."""
    loss: Tensor = _CrossEntropy.apply(rows_RW, columns_MW, excluded, temperature)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Loss and gradients in one sweep over blocks of rows; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        rows_RW: Tensor,
        columns_MW: Tensor,
        excluded: Excluded,
        temperature: float,
    ) -> Tensor:
        count, block = len(rows_RW), max(1, _SCORES_PER_BLOCK // len(columns_MW))
        row_gradients_RW, column_gradients_MW = torch.empty_like(rows_RW), torch.zeros_like(columns_MW)
        total = rows_RW.new_zeros(())
        for start in range(0, count, block):
            part_bW = rows_RW[start : start + block]
            numbers = torch.arange(len(part_bW), device=total.device)
            scores_bM = part_bW @ columns_MW.T / temperature
            scores_bM.masked_fill_(excluded.of_rows(start, start + block), -torch.inf)
            logs_bM = scores_bM.log_softmax(1)
            total -= logs_bM[numbers, start + numbers].sum()
            slopes_bM = logs_bM.exp_()
            slopes_bM[numbers, start + numbers] -= 1
            slopes_bM /= count * temperature
            row_gradients_RW[start : start + block] = slopes_bM @ columns_MW
            column_gradients_MW += slopes_bM.T @ part_bW
        ctx.save_for_backward(row_gradients_RW, column_gradients_MW)
        return total / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        row_gradients_RW, column_gradients_MW = ctx.saved_tensors  # type: ignore[attr-defined]
        return row_gradients_RW * upstream, column_gradients_MW * upstream, None, None


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
