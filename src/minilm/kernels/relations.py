"""The relation loss as a compiled kernel: loss and gradients of one pair of projections, in one pass.

In: addresses of a teacher's and a student's projections, packed sequences. Out: the loss of each sequence, float64, and
gradients of the student's projections, float32.

A head of a sequence is computed by one thread, so the bits of a sequence do not depend on its neighbors, nor on the
number of threads.

B sequences, T packed tokens, R relation heads, W width of one relation head.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minilm.errors import UsageError
from minilm.kernels.threaded import ThreadedKernel


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A projection `[T, R * W]` in memory, whose rows are contiguous.

    Attributes:
        address: of the first number.
        stride: numbers from one row to the next.
        bf16: bfloat16 instead of float32.
    """

    address: int
    stride: int
    bf16: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOfRows:
    """A pair (a, b) of projections of both sides, and where gradients go.

    Attributes:
        teacher: a and b of the teacher; a alone where both are the same projection, as in `student`.
        student: a and b of the student.
        heads: R.
        widths: W of the teacher and of the student.
        gradients: addresses of float32 `[T, R * W]`, one for each projection of the student; none: not computed.
    """

    teacher: Sequence[Rows]
    student: Sequence[Rows]
    heads: int
    widths: tuple[int, int]
    gradients: Sequence[int] = ()


class _Side(ctypes.Structure):
    _fields_ = [("rows", ctypes.c_void_p), ("stride", ctypes.c_long), ("bf16", ctypes.c_int32)]


class _Pair(ctypes.Structure):
    """The fields of `RelationPair` in `cpp/relation_unit.hpp`."""

    _fields_ = [
        *((name, _Side) for name in ("teacher_a", "teacher_b", "student_a", "student_b")),
        *((name, ctypes.c_int32) for name in ("heads", "teacher_width", "student_width", "symmetric")),
        *((name, ctypes.c_void_p) for name in ("gradient_a", "gradient_b")),
    ]


class RelationKernel(ThreadedKernel):
    """The kernel with its threads."""

    name = "relation"
    results: ClassVar = {"bytes": ctypes.c_long}
    arguments: ClassVar = {
        "bytes": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int],
        "run": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p],
    }

    def scratch_bytes(self, pair: PairOfRows, longest: int) -> int:
        """Memory that a thread takes for sequences of up to `longest` tokens."""
        found: int = self._function("bytes")(self._handle, ctypes.byref(_pair(pair)), longest)
        return found

    def run(self, pair: PairOfRows, cu_seqlens: NDArray[np.int32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The loss of each sequence, `[B]`: the weighted sum of KL(teacher || student) over its rows and heads.

        Args:
            pair: the projections; their gradients are written.
            cu_seqlens: `[B + 1]`, where each sequence begins, then T.
            weights: `[B]`, what one row of one head of a sequence counts.
        """
        ends, factors = np.ascontiguousarray(cu_seqlens, np.int32), np.ascontiguousarray(weights, np.float64)
        if len(ends) != len(factors) + 1:
            raise UsageError(f"there are {len(factors)} weights of {len(ends) - 1} sequences; expected one of each")
        losses = np.zeros(len(factors))
        pointers = [array.ctypes.data for array in (ends, factors, losses)]
        self._call("run", ctypes.byref(_pair(pair)), pointers[0], len(factors), *pointers[1:])
        return losses


def _pair(pair: PairOfRows) -> _Pair:
    sides = [_Side(rows.address, rows.stride, rows.bf16) for both in (pair.teacher, pair.student) for rows in both]
    symmetric = len(pair.teacher) == 1
    if len(pair.student) != len(pair.teacher) or len(pair.gradients) not in (0, len(pair.student)):
        raise UsageError(
            f"{len(pair.teacher)} projections of the teacher, {len(pair.student)} of the student and "
            f"{len(pair.gradients)} gradients; expected one or two of each, or no gradient"
        )
    if symmetric:
        sides = [sides[0], sides[0], sides[1], sides[1]]
    gradients = [*pair.gradients, None, None][:2]
    return _Pair(*sides, pair.heads, *pair.widths, symmetric, *gradients)
