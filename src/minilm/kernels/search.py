"""The best of stored vectors for each query as a compiled kernel: exact, and read in the type that they are stored in.

In: queries, stored vectors, the best so far. Out: the best with these. A score has the same bits on any number of
threads and in any block of vectors.

Q queries, N vectors, W stored items of each, D dimensions, K best.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minilm.errors import UsageError
from minilm.kernels.encoder import Float32s
from minilm.kernels.threaded import ThreadedKernel

_KINDS: Mapping[str, int] = {"float32": 0, "int8": 1, "uint8": 2}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Vectors that queries are compared with.

    Attributes:
        stored_NW: float32, int8, or sign bits in uint8, the first in the highest bit.
        dimensions: D.
        lowest_D: of int8, the value of -128 in each dimension.
        steps_D: of int8, how far apart two values are.
        signs: of sign bits, the eight values that each byte stands for, `[256, 8]`.
        cosine: divide by the length of each vector.
    """

    stored_NW: NDArray[np.float32 | np.int8 | np.uint8]
    dimensions: int
    lowest_D: Float32s | None = None
    steps_D: Float32s | None = None
    signs: Float32s | None = None
    cosine: bool = False


class _Stored(ctypes.Structure):
    """The fields of `StoredVectors` in `cpp/engine.hpp`."""

    _fields_ = [
        *(("rows", ctypes.c_void_p), ("row_bytes", ctypes.c_int64)),
        *((name, ctypes.c_int32) for name in ("kind", "dimensions", "cosine")),
        *((name, ctypes.c_void_p) for name in ("lowest", "steps", "signs")),
    ]


class SearchKernel(ThreadedKernel):
    """The kernel with its threads."""

    name = "search"
    arguments: ClassVar = {
        "run": [
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
            *(ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
        ]
    }

    def improve(
        self,
        scores_QK: Float32s,
        rows_QK: NDArray[np.int64],
        queries_QD: Float32s,
        vectors: Compared,
        *,
        begin: int,
    ) -> bool:
        """Put the vectors among the best, in place: the higher score first, of equal ones the earlier row.

        Args:
            scores_QK: of the best of earlier rows, best first; -inf where there are none.
            rows_QK: their rows.
            queries_QD: the queries.
            vectors: N more vectors.
            begin: the row of the first one.

        Returns:
            Whether all numbers are finite; if not, the best stay as they were.
        """
        stored_NW, queries_QD = np.ascontiguousarray(vectors.stored_NW), np.ascontiguousarray(queries_QD, np.float32)
        width = -(-vectors.dimensions // 8) if stored_NW.dtype == np.uint8 else vectors.dimensions
        if stored_NW.shape[1:] != (width,) or queries_QD.shape[1:] != (vectors.dimensions,):
            raise UsageError(
                f"found {stored_NW.dtype} vectors of shape {stored_NW.shape} and queries of shape {queries_QD.shape}; "
                f"expected [N, {width}] and [Q, {vectors.dimensions}]"
            )
        tables = [None if one is None else np.ascontiguousarray(one, np.float32) for one in _tables(vectors)]
        stored = _Stored(
            *(stored_NW.ctypes.data, stored_NW.strides[0], _KINDS[stored_NW.dtype.name]),
            *(vectors.dimensions, vectors.cosine),
            *(None if one is None else one.ctypes.data for one in tables),
        )
        finite = ctypes.c_int32()
        sizes = (len(queries_QD), scores_QK.shape[1])
        results = (scores_QK.ctypes.data, rows_QK.ctypes.data, ctypes.byref(finite))
        self._call("run", ctypes.byref(stored), len(stored_NW), begin, queries_QD.ctypes.data, *sizes, *results)
        return bool(finite.value)


def _tables(vectors: Compared) -> Sequence[Float32s | None]:
    """The lowest values and the steps of int8 vectors, the values of sign bits."""
    found, kind = (vectors.lowest_D, vectors.steps_D, vectors.signs), vectors.stored_NW.dtype
    of_codes = (vectors.dimensions,) if kind == np.int8 else None
    if [None if one is None else one.shape for one in found[:2]] != [of_codes, of_codes]:
        raise UsageError(f"int8 vectors need a lowest value and a step for each of {vectors.dimensions} dimensions")
    if (None if vectors.signs is None else vectors.signs.shape) != ((256, 8) if kind == np.uint8 else None):
        raise UsageError("sign bits need the eight values of each of 256 bytes")
    return found
