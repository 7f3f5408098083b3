"""The relation loss of a pair by a kernel, as a function of torch: compiled C++ on CPUs, Triton on GPUs.

In: the projections of teacher and student on one device, as for `relation_loss`. Out: the loss, with its gradient.

T packed tokens, B sequences, R relation heads, E width of a projection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from minilm.kernels.library import find_library
from minilm.kernels.relation_cuda import relation_loss_of_pair, why_not
from minilm.kernels.relations import PairOfRows, RelationKernel, Rows
from minilm.summation import ordered_sum

logger = logging.getLogger(__name__)

_READ = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class PairOfSides:
    """A pair of projections, of one with itself if there is one of each side.

    Attributes:
        teacher: `[T, E]`, one or two; rows are contiguous, in float32 or bfloat16, as are the student's.
        student: `[T, E]`, as many.
        lengths: of the sequences.
        weights: what a row of one head of each sequence counts.
        heads: R.
    """

    teacher: Sequence[Tensor]
    student: Sequence[Tensor]
    lengths: tuple[int, ...]
    weights: tuple[float, ...]
    heads: int


Kernel: TypeAlias = Callable[[PairOfSides, bool], tuple[Tensor, list[Tensor]]]
"""Maps a pair, and whether gradients are wanted, to the loss, a float64 scalar, and float32 gradients `[T, E]`."""


def loss_implementation(device: torch.device | str) -> Literal["compiled", "triton", "torch"]:
    """What computes relation losses on a device; all agree within rounding."""
    if kernel_for(torch.device(device)) is None:
        return "torch"
    return "compiled" if torch.device(device).type == "cpu" else "triton"


def kernel_for(device: torch.device) -> Kernel | None:
    """The kernel of a device, on CPUs with as many threads as torch has; None, and a line in the log, where is none.

    Raises:
        UsageError: an environment variable asks for kernels or an instruction set that do not exist.
    """
    if device.type == "cuda":
        return triton_losses if not (reason := why_not(device)) else _report(reason)
    if device.type != "cpu":
        return None
    kernel = RelationKernel.shared(torch.get_num_threads())
    return partial(_compiled_losses, kernel) if kernel is not None else _report(find_library().reason)


@cache
def _report(reason: str) -> None:
    logger.info("relation losses are computed in torch, which is slower: there are no compiled kernels (%s)", reason)


def kernel_loss(
    kernel: Kernel,
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    lengths: Sequence[int],
    row_weights: Sequence[float],
    num_heads: int,
) -> Tensor:
    """The weighted loss of a pair, a float64 scalar: of one projection with itself if there is one of each side.

    Args:
        kernel: the kernel.
        students: `[T, E]`, one or two.
        teachers: `[T, E]`, as many.
        lengths: of the sequences.
        row_weights: what a row of each sequence counts, before the mean over heads.
        num_heads: R.
    """
    pair = PairOfSides(
        teacher=[_readable(rows) for rows in teachers],
        student=[_readable(rows) for rows in students],
        lengths=tuple(lengths),
        weights=tuple(weight / num_heads for weight in row_weights),
        heads=num_heads,
    )
    loss: Tensor = _KernelKL.apply(kernel, pair, *students)  # type: ignore[no-untyped-call]
    return loss


class _KernelKL(torch.autograd.Function):
    """Loss and gradients in one call; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, kernel: Kernel, pair: PairOfSides, *students: Tensor
    ) -> Tensor:
        wants_gradients = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        loss, gradients = kernel(pair, wants_gradients)
        if wants_gradients:
            ctx.save_for_backward(*gradients)
            ctx.dtypes = [rows.dtype for rows in students]  # type: ignore[attr-defined]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        saved, dtypes = ctx.saved_tensors, ctx.dtypes  # type: ignore[attr-defined]
        return None, None, *((rows * upstream).to(dtype) for rows, dtype in zip(saved, dtypes, strict=True))


def _compiled_losses(kernel: RelationKernel, pair: PairOfSides, wants_gradients: bool) -> tuple[Tensor, list[Tensor]]:
    """The losses of sequences are added up in float64, and stay in it, for a step adds up those of its microbatches."""
    gradients = [torch.empty(rows.shape) for rows in pair.student] if wants_gradients else []
    rows_of_pair = PairOfRows(
        teacher=[_address(rows) for rows in pair.teacher],
        student=[_address(rows) for rows in pair.student],
        heads=pair.heads,
        widths=(pair.teacher[0].shape[1] // pair.heads, pair.student[0].shape[1] // pair.heads),
        gradients=[rows.data_ptr() for rows in gradients],
    )
    losses = kernel.run(rows_of_pair, np.cumsum([0, *pair.lengths], dtype=np.int32), np.array(pair.weights))
    return torch.tensor(sum(losses.tolist()), dtype=torch.float64), gradients


def triton_losses(pair: PairOfSides, wants_gradients: bool) -> tuple[Tensor, list[Tensor]]:
    """As on CPUs, by the kernels in Triton; on CPUs in its interpreter alone."""
    found = relation_loss_of_pair(
        pair.teacher,
        pair.student,
        lengths=pair.lengths,
        weights=pair.weights,
        heads=pair.heads,
        wants_gradients=wants_gradients,
    )
    return ordered_sum(found.of_sequences), found.gradients


def _readable(rows: Tensor) -> Tensor:
    """The rows as a kernel reads them, without a copy where they are: numbers of a row one after the other."""
    rows = rows.detach()
    rows = rows if rows.dtype in _READ else rows.float()
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _address(rows: Tensor) -> Rows:
    return Rows(address=rows.data_ptr(), stride=rows.stride(0), bf16=rows.dtype == torch.bfloat16)
