"""Stored vectors as numbers, part by part: those of a file, or the same in fewer dimensions and bytes.

In: an array on disk, or other vectors with a cut and a precision. Out: float32 rows that a query is compared with.

An int8 vector stands for the lowest values that it encodes; the error is the same for all documents of a query. A
binary vector has the values +1 and -1, scaled to length 1. The query itself is never rounded: with that, every document
has the score that libraries compute for the few best ones ("rescoring").

N vectors, W stored items of each, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from minilm.files.text_store import Vectors
from minilm.infer.vector_precision import Float32s, StoredVectors, dequantized, quantized, ranges_of
from minilm.infer.vectors import VectorOptions
from minilm.model.precision import VectorPrecision

VALUES_PER_BLOCK = 2**22
"""float32 values in a block of vectors, 16 MiB."""


class VectorRows(Protocol):
    """Vectors as float32, of which some are read at a time."""

    @property
    def dimensions(self) -> int:
        """D."""

    def __len__(self) -> int:
        """N."""

    def rows(self, which: slice) -> Float32s:
        """The vectors of some rows, `[B, D]`."""


def blocks(vectors: VectorRows) -> Iterator[tuple[int, Float32s]]:
    """All vectors, block by block, each with the number of its first row."""
    size = max(1, VALUES_PER_BLOCK // vectors.dimensions)
    for begin in range(0, len(vectors), size):
        yield begin, vectors.rows(slice(begin, begin + size))


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """The vectors of a file, `stored_NW`; `ranges_2D` are those of int8."""

    stored_NW: Vectors
    dimensions: int
    precision: VectorPrecision
    ranges_2D: Float32s | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.stored_NW)

    def rows(self, which: slice) -> Float32s:
        """The vectors of some rows, `[B, D]`."""
        return as_numbers(self.stored_NW[which], self.precision, self.dimensions, self.ranges_2D)


class SmallerRows:
    """Other vectors after a cut, as if they had been stored in a precision; int8 within the ranges of all of them."""

    def __init__(self, vectors: VectorRows, options: VectorOptions) -> None:
        """Find the ranges of int8, for which all vectors are read once."""
        self._vectors, self._options = vectors, options
        self.dimensions = options.dimensions
        self._ranges_2D: Float32s | None = None
        if options.precision == "int8":
            ends = [ranges_of(options.cut(block)) for _, block in blocks(vectors)]
            self._ranges_2D = ranges_of(np.concatenate(ends))

    def __len__(self) -> int:
        """N."""
        return len(self._vectors)

    def rows(self, which: slice) -> Float32s:
        """The vectors of some rows, `[B, D]`."""
        options = self._options
        stored = quantized(options.cut(self._vectors.rows(which)), options.precision, self._ranges_2D)
        return as_numbers(stored, options.precision, options.dimensions, self._ranges_2D)


def as_numbers(
    stored_BW: StoredVectors, precision: VectorPrecision, dimensions: int, ranges_2D: Float32s | None
) -> Float32s:
    """Stored vectors as float32, `[B, D]`."""
    if precision == "int8":
        assert ranges_2D is not None
        return dequantized(stored_BW.astype(np.int8, copy=False), ranges_2D)
    if precision == "binary":
        bits = np.unpackbits(stored_BW.astype(np.uint8, copy=False), axis=-1, count=dimensions)
        signs: Float32s = (2 * bits.astype(np.float32) - 1) / np.float32(math.sqrt(dimensions))
        return signs
    return np.asarray(stored_BW, dtype=np.float32)
