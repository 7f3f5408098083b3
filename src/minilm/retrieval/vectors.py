"""Stored vectors as numbers, part by part: those of a file, or the same in fewer dimensions and bytes.

In: an array on disk, or other vectors with a cut and a precision. Out: what a query is compared with.

An int8 vector stands for the lowest values that it encodes. A binary vector has the values +1 and -1, scaled to length
1. The query itself is never rounded: with that, every document has the score that libraries compute for the few best
ones ("rescoring").

N vectors, W stored items of each, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from minilm.files.text_store import Vectors
from minilm.infer.vector_precision import Float32s, byte_signs, dequantized, quantized, ranges_of, steps_of
from minilm.infer.vectors import VectorOptions
from minilm.kernels.search import Compared
from minilm.model.precision import VectorPrecision

VALUES_PER_BLOCK = 2**22
"""float32 values in a block of vectors, 16 MiB."""


class VectorRows(Protocol):
    """Vectors of which some are read at a time."""

    @property
    def dimensions(self) -> int:
        """D."""

    def __len__(self) -> int:
        """N."""

    def block(self, which: slice) -> StoredRows:
        """Some of the rows."""


def blocks(vectors: VectorRows) -> Iterator[tuple[int, StoredRows]]:
    """All vectors, block by block, each with the number of its first row."""
    size = max(1, VALUES_PER_BLOCK // vectors.dimensions)
    for begin in range(0, len(vectors), size):
        yield begin, vectors.block(slice(begin, begin + size))


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Vectors as they are stored, `stored_NW`; `ranges_2D` are those of int8."""

    stored_NW: Vectors
    dimensions: int
    precision: VectorPrecision
    ranges_2D: Float32s | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.stored_NW)

    def block(self, which: slice) -> StoredRows:
        """Some of the rows."""
        return replace(self, stored_NW=self.stored_NW[which])

    def numbers(self) -> Float32s:
        """All of them as float32, `[N, D]`."""
        if self.precision == "int8":
            return dequantized(self.stored_NW.astype(np.int8, copy=False), self._ranges())
        if self.precision == "binary":
            bytes_NW = self.stored_NW.astype(np.uint8, copy=False)
            return byte_signs(self.dimensions)[bytes_NW].reshape(len(self), -1)[:, : self.dimensions]
        return np.asarray(self.stored_NW, dtype=np.float32)

    def compared(self, *, cosine: bool) -> Compared:
        """What the kernels compare queries with."""
        if self.precision == "int8":
            ranges_2D = self._ranges()
            return Compared(
                stored_NW=self.stored_NW.astype(np.int8, copy=False),
                dimensions=self.dimensions,
                lowest_D=ranges_2D[0],
                steps_D=steps_of(ranges_2D),
                cosine=cosine,
            )
        if self.precision == "binary":
            return Compared(
                stored_NW=self.stored_NW.astype(np.uint8, copy=False),
                dimensions=self.dimensions,
                signs=byte_signs(self.dimensions),
                cosine=cosine,
            )
        return Compared(stored_NW=self.numbers(), dimensions=self.dimensions, cosine=cosine)

    def _ranges(self) -> Float32s:
        assert self.ranges_2D is not None
        return self.ranges_2D


class SmallerRows:
    """Other vectors after a cut, as if they had been stored in a precision; int8 within the ranges of all of them."""

    def __init__(self, vectors: VectorRows, options: VectorOptions) -> None:
        """Find the ranges of int8, for which all vectors are read once."""
        self._vectors, self._options = vectors, options
        self.dimensions = options.dimensions
        self._ranges_2D: Float32s | None = None
        if options.precision == "int8":
            ends = [ranges_of(options.cut(block.numbers())) for _, block in blocks(vectors)]
            self._ranges_2D = ranges_of(np.concatenate(ends))

    def __len__(self) -> int:
        """N."""
        return len(self._vectors)

    def block(self, which: slice) -> StoredRows:
        """Some of the rows."""
        options = self._options
        return StoredRows(
            stored_NW=quantized(options.cut(self._vectors.block(which).numbers()), options.precision, self._ranges_2D),
            dimensions=options.dimensions,
            precision=options.precision,
            ranges_2D=self._ranges_2D,
        )
