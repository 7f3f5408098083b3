"""The relation loss of a pair by the compiled kernel, as a function of torch.

In: the projections of teacher and student on a CPU, as for `relation_loss`. Out: the loss, with its gradient.

T packed tokens, R relation heads, E width of a projection.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from minilm.kernels.library import find_library
from minilm.kernels.relations import PairOfRows, RelationKernel, Rows, shared_kernel

logger = logging.getLogger(__name__)

_READ = (torch.float32, torch.bfloat16)


def loss_implementation(device: torch.device | str) -> Literal["compiled", "torch"]:
    """What computes relation losses on a device; the two agree within rounding."""
    return "torch" if compiled_kernel(torch.device(device)) is None else "compiled"


def compiled_kernel(device: torch.device) -> RelationKernel | None:
    """The kernel with as many threads as torch has; None on other devices, and where there are no kernels.

    Raises:
        UsageError: an environment variable asks for kernels or an instruction set that do not exist.
    """
    if device.type != "cpu":
        return None
    kernel = shared_kernel(torch.get_num_threads())
    if kernel is None:
        _report(find_library().reason)
    return kernel


@cache
def _report(reason: str) -> None:
    logger.info("relation losses are computed in torch, which is slower: there are no compiled kernels (%s)", reason)


def compiled_loss(
    kernel: RelationKernel,
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    lengths: Sequence[int],
    row_weights: Sequence[float],
    num_heads: int,
) -> Tensor:
    """The weighted loss of a pair, a float32 scalar: of one projection with itself if there is one of each side.

    Args:
        kernel: the kernel.
        students: `[T, E]`, one or two.
        teachers: `[T, E]`, as many.
        lengths: of the sequences.
        row_weights: what a row of each sequence counts, before the mean over heads.
        num_heads: R.
    """
    plan = _Plan(kernel=kernel, teachers=teachers, lengths=lengths, row_weights=row_weights, num_heads=num_heads)
    loss: Tensor = _CompiledKL.apply(plan, *students)  # type: ignore[no-untyped-call]
    return loss


@dataclass(frozen=True, kw_only=True)
class _Plan:
    kernel: RelationKernel
    teachers: Sequence[Tensor]
    lengths: Sequence[int]
    row_weights: Sequence[float]
    num_heads: int


class _CompiledKL(torch.autograd.Function):
    """Loss and gradients in one call; the backward pass only scales them."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, plan: _Plan, *students: Tensor) -> Tensor:
        sides = [[_readable(rows) for rows in both] for both in (plan.teachers, students)]
        wants_gradient = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        gradients = [torch.empty(rows.shape) for rows in sides[1]] if wants_gradient else []
        teacher, student = ([_address(rows) for rows in both] for both in sides)
        pair = PairOfRows(
            teacher=teacher,
            student=student,
            heads=plan.num_heads,
            widths=(sides[0][0].shape[1] // plan.num_heads, sides[1][0].shape[1] // plan.num_heads),
            gradients=[rows.data_ptr() for rows in gradients],
        )
        ends = np.cumsum([0, *plan.lengths], dtype=np.int32)
        losses = plan.kernel.run(pair, ends, np.array(plan.row_weights) / plan.num_heads)
        if wants_gradient:
            ctx.save_for_backward(*gradients)
            ctx.dtypes = [rows.dtype for rows in students]  # type: ignore[attr-defined]
        return torch.tensor(sum(losses.tolist()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        saved, dtypes = ctx.saved_tensors, ctx.dtypes  # type: ignore[attr-defined]
        return None, *((rows * upstream).to(dtype) for rows, dtype in zip(saved, dtypes, strict=True))


def _readable(rows: Tensor) -> Tensor:
    """The rows as the kernel reads them, without a copy where they are: numbers of a row one after the other."""
    rows = rows.detach()
    rows = rows if rows.dtype in _READ else rows.float()
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _address(rows: Tensor) -> Rows:
    return Rows(address=rows.data_ptr(), stride=rows.stride(0), bf16=rows.dtype == torch.bfloat16)
