"""Triton's interpreter, which runs kernels on CPUs where `make check-triton` sets TRITON_INTERPRET=1."""

from __future__ import annotations

import importlib.util
import os

import numpy as np

WHY_NOT = ""
if importlib.util.find_spec("triton") is None:
    WHY_NOT = "the package triton is not installed: make check-triton"
elif os.environ.get("TRITON_INTERPRET") != "1":
    WHY_NOT = "TRITON_INTERPRET=1 is not set: make check-triton"


def multiply_bfloat16_as_numbers() -> None:
    """Triton 3.9's interpreter holds numbers of bfloat16 as integers, and multiplies the integers in `tl.dot`."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    theirs = InterpreterBuilder.create_dot

    def widened(rows: TensorHandle) -> TensorHandle:
        if rows.dtype.scalar != tl.bfloat16:
            return rows
        return TensorHandle((rows.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self, a, b, *others):
        return theirs(self, widened(a), widened(b), *others)

    InterpreterBuilder.create_dot = create_dot


if not WHY_NOT:
    multiply_bfloat16_as_numbers()
