"""The relation loss on GPUs: loss and gradients of one pair of projections by the Triton kernels.

In: a teacher's and a student's projections on a device, packed sequences. Out: the loss of each sequence, float64, and
gradients of the student's projections, float32, all on the device: nothing waits for it.

The bits of a sequence do not depend on its neighbors. PyTorch for CUDA brings Triton; `relation_triton.py` is imported
only when a loss is computed.

B sequences, T packed tokens, R relation heads, W width of one relation head.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

from minilm.errors import one_line
from minilm.kernels.library import SWITCHED_OFF, is_switched_off

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ROWS = 64  # of a block
_COLUMNS = 64  # that a block meets at a time
_CHUNKS = (16, 64)  # numbers of a head that are multiplied at a time: the fewest that a product takes, and the most
# Of the compiler: with two tiles on their way at a time, shared memory suffices on any GPU from `_OLDEST` on.
_OPTIONS = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
_OLDEST = (8, 0)  # compute capability, which bfloat16 needs
_KEPT = 5  # numbers of each row and head between the kernels


@cache
def why_not(device: torch.device) -> str:
    """Why the kernels do not run on a device; empty if they do.

    Raises:
        UsageError: MINILM_KERNELS has another value than those that it can have.
    """
    if is_switched_off():
        return SWITCHED_OFF
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    import torch

    found = torch.cuda.get_device_capability(device)
    if found < _OLDEST:
        return f"the compute capability of {device} is {found[0]}.{found[1]}, and they need {_OLDEST[0]}.{_OLDEST[1]}"
    try:
        from triton.runtime import driver

        driver.active.get_current_device()  # compiles what Triton starts kernels with
    except Exception as error:  # whatever its compiler or driver says
        return f"Triton cannot be used: {one_line(error)}"
    return ""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What the kernels found.

    Attributes:
        of_sequences: `[B]` float64, the weighted sum of KL(teacher || student) over rows and heads.
        gradients: float32 `[T, R * W]`, one for each projection of the student; none where they are not wanted.
    """

    of_sequences: Tensor
    gradients: list[Tensor]


def relation_loss_of_pair(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    *,
    lengths: tuple[int, ...],
    weights: tuple[float, ...],
    heads: int,
    wants_gradients: bool,
) -> Loss:
    """The loss of a pair (a, b) of projections, and gradients.

    Args:
        teacher: a and b, `[T, R * W]` float32 or bfloat16 whose rows are contiguous; a alone where b is the same.
        student: as many, of its own width.
        lengths: of the sequences.
        weights: what one row of one head of each sequence counts.
        heads: R.
        wants_gradients: whether gradients are computed.
    """
    import torch

    from minilm.kernels import relation_triton as kernels

    device, total = student[0].device, student[0].shape[0]
    layout = _layout(lengths, weights, device)
    kept = torch.empty((_KEPT, heads, total), device=device)
    block_losses = torch.empty((len(layout.blocks), heads), device=device)
    of_sequences = torch.empty(len(lengths), dtype=torch.float64, device=device)
    sides = (teacher[0], teacher[-1], student[0], student[-1])
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernels.statistics[(len(layout.blocks), heads)](
            *sides,
            *(side.stride(0) for side in sides),
            layout.blocks,
            layout.ends,
            layout.weights,
            kept,
            block_losses,
            total,
            **_sizes(teacher[0].shape[1] // heads, student[0].shape[1] // heads),
            **_OPTIONS,
        )
        kernels.sequence_losses[(len(lengths),)](
            block_losses, layout.first_blocks, of_sequences, heads, HEADS=_power_of_two(heads)
        )
        numbers = range(len(student)) if wants_gradients else ()
        gradients = [_gradient(number, teacher, student, layout, kept) for number in numbers]
    return Loss(of_sequences=of_sequences, gradients=gradients)


def _gradient(
    number: int, teacher: Sequence[Tensor], student: Sequence[Tensor], layout: _Layout, kept: Tensor
) -> Tensor:
    """That of one projection of the student, from what `statistics` kept."""
    import torch

    from minilm.kernels import relation_triton as kernels

    heads, total = kept.shape[1:]
    sides = (teacher[number], teacher[-1 - number], student[number], student[-1 - number])
    sizes = _sizes(sides[0].shape[1] // heads, sides[2].shape[1] // heads)
    found = torch.empty(student[number].shape, device=kept.device)
    grid = len(layout.blocks), heads, math.ceil(sizes["W_S"] / sizes["C_S"])
    kernels.gradient[grid](
        *sides,
        *(side.stride(0) for side in sides),
        layout.blocks,
        layout.ends,
        kept,
        found,
        total,
        **sizes,
        IS_A=number == 0,
        IS_B=number == len(student) - 1,
        **_OPTIONS,
    )
    return found


def _sizes(width_t: int, width_s: int) -> dict[str, float]:
    """What the kernels are compiled for, and the factors of scores."""
    least, most = _CHUNKS
    chunks = (min(most, max(least, _power_of_two(width))) for width in (width_t, width_s))
    scales = (math.log2(math.e) / math.sqrt(width) for width in (width_t, width_s))
    names = ("scale_t", "scale_s", "W_T", "W_S", "C_T", "C_S", "M", "N")
    return dict(zip(names, (*scales, width_t, width_s, *chunks, _ROWS, _COLUMNS), strict=True))


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The sequences of a batch as the kernels read them, on the device; see `relation_triton.statistics`."""

    blocks: Tensor
    ends: Tensor
    first_blocks: Tensor
    weights: Tensor


@lru_cache(maxsize=2)  # the pairs of a microbatch, for all its students
def _layout(lengths: tuple[int, ...], weights: tuple[float, ...], device: torch.device) -> _Layout:
    import torch

    ends = [0, *accumulate(lengths)]
    counts = [-(-length // _ROWS) for length in lengths]
    blocks = [
        (sequence, ends[sequence] + block * _ROWS) for sequence, count in enumerate(counts) for block in range(count)
    ]
    tensors = {
        "blocks": torch.tensor(blocks, dtype=torch.int32).view(-1, 2),
        "ends": torch.tensor(ends, dtype=torch.int32),
        "first_blocks": torch.tensor([0, *accumulate(counts)], dtype=torch.int32),
        "weights": torch.tensor(weights, dtype=torch.float32),
    }
    if device.type == "cuda":  # from pinned memory the copy need not be waited for
        tensors = {name: part.pin_memory().to(device, non_blocking=True) for name, part in tensors.items()}
    return _Layout(**tensors)
