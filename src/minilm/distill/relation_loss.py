"""Relation losses of MiniLM (arXiv 2002.10957, eq. 4-7) and MiniLMv2 (arXiv 2012.15828, eq. 5-7).

In: the `Relations` of a teacher layer and of the student's last layer, over the same packed tokens.
Out: one loss per relation pair; pure functions of tensors.

The softmax-relation matrices `[R, N, N]` are never stored: one sweep computes the loss and its gradient, and keeps only
gradients of the size of the projections. A kernel does it, compiled for CPUs or in Triton for GPUs, where there is one;
`relation_loss_torch` is its twin in torch, for a block of heads at a time.

B sequences, T packed tokens, N tokens of one sequence, R relation heads, W width of one relation head,
M blocks (sequences x relation heads) of equal N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minilm.distill.relation_kernel import kernel_for, kernel_loss
from minilm.errors import UsageError
from minilm.model.encoder import Relations
from minilm.model.packing import Packed, on_device

__all__ = [
    "V1_PAIRS",
    "V2_PAIRS",
    "Pair",
    "Relations",
    "log_relation",
    "relation_loss",
    "relation_loss_reference",
    "relation_loss_torch",
    "row_weights",
]

Projection = Literal["query", "key", "value"]
Pair = tuple[Projection, Projection]
Normalization = Literal["sequence", "token"]

V1_PAIRS: tuple[Pair, ...] = (("query", "key"), ("value", "value"))
V2_PAIRS: tuple[Pair, ...] = (("query", "query"), ("key", "key"), ("value", "value"))

# Entries of one block of relation matrices: two of them fit in a core's second-level cache.
_BLOCK_ENTRIES = {"cpu": 2**18}
_BLOCK_ENTRIES_ACCELERATOR = 2**26


def relation_loss(
    teacher: Relations,
    student: Relations,
    packed: Packed,
    *,
    pairs: tuple[Pair, ...],
    num_relation_heads: int,
    normalization: Normalization = "sequence",
    total: int | None = None,
) -> Tensor:
    """KL(teacher || student) of scaled-dot-product relations, one value per pair, `[len(pairs)]` float64.

    For a pair (a, b): softmax(a b^T / sqrt(W)) over each sequence, where W is the width of the teacher or the student
    divided by R. v1 is `V1_PAIRS` with R = the number of attention heads; v2 is `V2_PAIRS` with any R that divides
    both widths. The mean is over heads and query rows of a sequence, then over sequences ("sequence"), or over
    heads and all rows of the batch ("token").

    Args:
        teacher: projections `[T, H, D]`; no gradient flows into them.
        student: projections `[T, H', D']`.
        packed: the batch from which both were computed.
        pairs: the pairs of projections to relate.
        num_relation_heads: R.
        normalization: how rows are averaged.
        total: sequences, or tokens, that the mean is over, where the batch is a part of them; None: its own.

    Raises:
        UsageError: R does not divide a width, the sides of a pair differ in width (shared key heads), or projections
            are not those of the batch.
    """
    _require_fits(num_relation_heads, pairs, packed, teacher, student)
    weights = row_weights(packed.lengths, normalization, total)
    kernel = kernel_for(student.query.device)
    if kernel is None:
        return _torch_losses(teacher, student, packed, pairs, num_relation_heads, weights)
    losses = []
    for a, b in pairs:
        parts = (a,) if a == b else (a, b)
        students, teachers = ([_flat(side, part) for part in parts] for side in (student, teacher))
        losses.append(kernel_loss(kernel, students, teachers, packed.lengths, weights, num_relation_heads))
    return torch.stack(losses)


def relation_loss_torch(
    teacher: Relations,
    student: Relations,
    packed: Packed,
    *,
    pairs: tuple[Pair, ...],
    num_relation_heads: int,
    normalization: Normalization = "sequence",
    total: int | None = None,
) -> Tensor:
    """The same loss in torch, on any device: the twin of the kernels, and what runs where there is none."""
    _require_fits(num_relation_heads, pairs, packed, teacher, student)
    weights = row_weights(packed.lengths, normalization, total)
    return _torch_losses(teacher, student, packed, pairs, num_relation_heads, weights)


def relation_loss_reference(
    teacher: Relations,
    student: Relations,
    packed: Packed,
    *,
    pairs: tuple[Pair, ...],
    num_relation_heads: int,
    normalization: Normalization = "sequence",
) -> Tensor:
    """The same loss, implemented as in the papers: full matrices, one sequence at a time, autograd."""
    _require_fits(num_relation_heads, pairs, packed, teacher, student)
    weights = row_weights(packed.lengths, normalization, None)
    losses = []
    for a, b in pairs:
        total = torch.zeros(())
        rows = [_flat(side, part).split(packed.lengths) for side in (teacher, student) for part in (a, b)]
        for sequence, weight in enumerate(weights):
            teacher_a, teacher_b, student_a, student_b = (part[sequence] for part in rows)
            target_RNN = log_relation(teacher_a, teacher_b, num_relation_heads)
            found_RNN = log_relation(student_a, student_b, num_relation_heads)
            divergence_RN = (target_RNN.exp() * (target_RNN - found_RNN)).sum(-1)
            total = total.to(divergence_RN) + divergence_RN.mean(0).sum() * weight
        losses.append(total.double())
    return torch.stack(losses)


def _torch_losses(
    teacher: Relations,
    student: Relations,
    packed: Packed,
    pairs: tuple[Pair, ...],
    num_heads: int,
    weights: tuple[float, ...],
) -> Tensor:
    plan = _Plan(runs=packed.runs, num_heads=num_heads, row_weights=weights)
    losses = [
        _BlockwiseKL.apply(  # type: ignore[no-untyped-call]
            _flat(student, a), _flat(student, b), _flat(teacher, a), _flat(teacher, b), plan
        )
        for a, b in pairs
    ]
    return torch.stack(losses)


def log_relation(a_NE: Tensor, b_NE: Tensor, num_heads: int) -> Tensor:
    """The logarithm of softmax(a b^T / sqrt(W)) of one sequence, `[R, N, N]`."""
    a_RNW, b_RNW = (rows.unflatten(1, (num_heads, -1)).transpose(0, 1) for rows in (a_NE, b_NE))
    scores_RNN: Tensor = a_RNW @ b_RNW.mT / a_RNW.shape[-1] ** 0.5
    return torch.log_softmax(scores_RNN, dim=-1)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The layout of the sequences and the weight of each of their rows in the mean."""

    runs: tuple[tuple[int, int], ...]
    num_heads: int
    row_weights: tuple[float, ...]

    def sections(self) -> Iterator[tuple[slice, int, int, Tensor]]:
        """For each run of equal lengths: its rows, number of sequences, N, and weights of its M blocks `[M]`."""
        row = sequence = 0
        for count, length in self.runs:
            weights = torch.tensor(self.row_weights[sequence : sequence + count]) / self.num_heads
            yield slice(row, row + count * length), count, length, weights.repeat_interleave(self.num_heads)
            row, sequence = row + count * length, sequence + count


class _BlockwiseKL(torch.autograd.Function):
    """Loss and gradients of one pair in one sweep; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        student_a_TE: Tensor,
        student_b_TE: Tensor,
        teacher_a_TE: Tensor,
        teacher_b_TE: Tensor,
        plan: _Plan,
    ) -> Tensor:
        inputs = (student_a_TE, student_b_TE, teacher_a_TE, teacher_b_TE)
        wants_gradient = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        gradients = [torch.empty_like(rows, dtype=torch.float32) for rows in inputs[:2]] if wants_gradient else []
        total = torch.zeros((), dtype=torch.float64, device=student_a_TE.device)
        with torch.autocast(student_a_TE.device.type, enabled=False):
            for rows, count, length, weights_M in plan.sections():
                blocks = [_to_blocks(part[rows], count, length, plan.num_heads) for part in inputs]
                value, found = _sweep(blocks, on_device(weights_M, total.device), wants_gradient)
                total += value
                for gradient, block in zip(gradients, found, strict=False):
                    _from_blocks(block, count, gradient[rows])
        if wants_gradient:
            ctx.save_for_backward(*gradients)
            ctx.dtype = student_a_TE.dtype  # type: ignore[attr-defined]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        a, b = ctx.saved_tensors  # type: ignore[attr-defined]
        dtype: torch.dtype = ctx.dtype  # type: ignore[attr-defined]
        return (a * upstream).to(dtype), (b * upstream).to(dtype), None, None, None


def _to_blocks(rows_TE: Tensor, count: int, length: int, num_heads: int) -> Tensor:
    """`count` sequences of `length` rows -> `[M, N, W]` float32, scaled so that a b^T needs no 1/sqrt(W)."""
    rows: Tensor = rows_TE.view(count, length, num_heads, -1).transpose(1, 2).float()
    scale: float = rows.shape[-1] ** -0.25
    return (rows * scale).reshape(count * num_heads, length, -1)


def _from_blocks(blocks_MNW: Tensor, count: int, rows_TE: Tensor) -> None:
    """Write gradients of the scaled blocks back as gradients of the rows."""
    _, length, width = blocks_MNW.shape
    shaped = blocks_MNW.view(count, -1, length, width).transpose(1, 2)
    torch.mul(shaped, width**-0.25, out=rows_TE.view(count, length, -1, width))


def _sweep(blocks: list[Tensor], weights_M: Tensor, wants_gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Weighted KL of all blocks, and the gradients with respect to the student's two sides.

    KL of a row = sum(P_t (z_t - z_s)) - lse(z_t) + lse(z_s); its gradient in z_s is P_s - P_t.
    """
    student_a, student_b, teacher_a, teacher_b = blocks
    num_blocks, length, _ = student_a.shape
    entries = _BLOCK_ENTRIES.get(student_a.device.type, _BLOCK_ENTRIES_ACCELERATOR)
    step = max(1, entries // (length * length))
    found = (torch.empty_like(student_a), torch.empty_like(student_b)) if wants_gradient else ()
    total = torch.zeros((), device=student_a.device)
    for start in range(0, num_blocks, step):
        part = slice(start, start + step)
        a, b, weights = student_a[part], student_b[part], weights_M[part]
        scores_t = torch.bmm(teacher_a[part], teacher_b[part].mT)
        scores_s = torch.bmm(a, b.mT)
        target, guess = torch.softmax(scores_t, -1), torch.softmax(scores_s, -1)
        partition = (_log_partition(scores_s, guess) - _log_partition(scores_t, target)).sum(-1)
        cross = (scores_t.sub_(scores_s).mul_(target)).flatten(1).sum(-1)
        total += torch.dot(weights, cross + partition)
        if found:
            slope = guess.sub_(target).mul_(weights[:, None, None])
            torch.bmm(slope, b, out=found[0][part])
            torch.bmm(slope.mT, a, out=found[1][part])
    return total, found


def _log_partition(scores: Tensor, probabilities: Tensor) -> Tensor:
    """log(sum(exp(scores))) of each row, computed from its largest entry: exact, without a second exponential."""
    return scores.amax(-1) - probabilities.amax(-1).log_()


def row_weights(counts: Sequence[int], normalization: Normalization, total: int | None = None) -> tuple[float, ...]:
    """Weight of a row of each sequence in the mean, given how many rows of it count.

    `total` is as for `relation_loss`.
    """
    if normalization == "token":
        return (1.0 / (total or sum(counts)),) * len(counts)
    return tuple(1.0 / ((total or len(counts)) * max(count, 1)) for count in counts)


def _flat(relations: Relations, part: Projection) -> Tensor:
    """Concatenated heads, `[T, H * D]`, for the split into relation heads."""
    rows: Tensor = getattr(relations, part)
    return rows.flatten(1)


def _require_fits(num_heads: int, pairs: tuple[Pair, ...], packed: Packed, *sides: Relations) -> None:
    for a, b in pairs:
        for relations in sides:
            shapes = [getattr(relations, part).shape for part in (a, b)]
            if any(shape[0] != packed.num_tokens for shape in shapes):
                raise UsageError(
                    f"{a} and {b} have {shapes[0][0]} and {shapes[1][0]} rows, but the batch has {packed.num_tokens} "
                    "tokens; expected the projections of this batch"
                )
            widths = [shape[1:].numel() for shape in shapes]
            wrong = [width for width in widths if num_heads < 1 or width % num_heads]
            if wrong:
                raise UsageError(
                    f"{num_heads} relation heads do not divide the width {wrong[0]}; change loss.relation_heads"
                )
            if widths[0] != widths[1]:
                raise UsageError(
                    f"{a} has width {widths[0]} but {b} has width {widths[1]} (shared key heads), "
                    f"so they have no relation; use loss.version v2"
                )
