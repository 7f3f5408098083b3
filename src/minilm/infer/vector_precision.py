"""Vectors in fewer bytes: float16, int8 within ranges, or one sign bit for each value.

In: float32 vectors, and for int8 the range of each value. Out: arrays of the types in `STORED_TYPES`, with the numbers
of `quantize_embeddings` of sentence-transformers (`binary` is its `ubinary`).

B vectors, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from minilm.errors import UsageError
from minilm.model.precision import VectorPrecision

Float32s = NDArray[np.float32]
StoredVectors = NDArray[np.float32 | np.float16 | np.int8 | np.uint8]

STORED_TYPES: Mapping[VectorPrecision, str] = {"fp32": "float32", "fp16": "float16", "int8": "int8", "binary": "uint8"}
"""Name of the array type of each precision, in numpy and in arrow's spelling of numpy."""
_STEPS = 255  # between the lowest and the highest of 256 values
_LOWEST = -128
_LARGEST_FP16 = float(np.finfo(np.float16).max)


def stored_width(dimensions: int, precision: VectorPrecision) -> int:
    """Number of items that hold a vector of D dimensions: D, or for `binary` one byte for eight of them."""
    return -(-dimensions // 8) if precision == "binary" else dimensions


def quantized(vectors_BD: Float32s, precision: VectorPrecision, ranges_2D: Float32s | None = None) -> StoredVectors:
    """The vectors in another precision, `[B, D]`, or `[B, ceil(D / 8)]` if `binary`.

    `int8` divides each range into 255 steps and rounds down; values outside it become the nearest end. `binary` keeps
    the sign: a bit is 1 where the value is above 0, the first value in the highest bit of the first byte, and the last
    byte is filled with zeros.

    Args:
        vectors_BD: the vectors.
        precision: of the result.
        ranges_2D: for `int8`, the lowest and the highest value of each dimension.

    Raises:
        UsageError: `int8` without ranges, ranges of another width, or a value too large for `fp16`.
    """
    if precision == "binary":
        bits_BD: NDArray[np.uint8] = np.packbits(vectors_BD > 0, axis=-1)
        return bits_BD
    if precision == "int8":
        ranges_2D = _required(ranges_2D, vectors_BD.shape[-1])
        codes_BD = np.floor((vectors_BD - ranges_2D[0]) / steps_of(ranges_2D))
        codes_BD.clip(0, _STEPS, out=codes_BD)
        codes_BD += _LOWEST
        codes: NDArray[np.int8] = codes_BD.astype(np.int8)
        return codes
    if precision == "fp16":
        largest = float(np.abs(vectors_BD).max(initial=0))
        if largest > _LARGEST_FP16:
            raise UsageError(f"a vector has the value {largest:g}; fp16 holds at most {_LARGEST_FP16:g}: use fp32")
        return vectors_BD.astype(np.float16)
    return vectors_BD.astype(np.float32, copy=False)


def dequantized(codes_BD: NDArray[np.int8], ranges_2D: Float32s) -> Float32s:
    """The lowest values that `quantized` maps to these int8 values, `[B, D]`."""
    ranges_2D = _required(ranges_2D, codes_BD.shape[-1])
    values_BD: Float32s = (codes_BD.astype(np.float32) - _LOWEST) * steps_of(ranges_2D) + ranges_2D[0]
    return values_BD


@cache
def byte_signs(dimensions: int) -> Float32s:
    """The eight values of each byte of a binary vector, +1 and -1, scaled so that D have length 1, `[256, 8]`."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    signs: Float32s = (2 * bits.astype(np.float32) - 1) / np.float32(math.sqrt(dimensions))
    return signs


def ranges_of(vectors_BD: Float32s) -> Float32s:
    """The lowest and the highest value of each dimension, `[2, D]`; of at least one vector."""
    return np.stack([vectors_BD.min(0), vectors_BD.max(0)])


def is_outside(vectors_BD: Float32s, ranges_2D: Float32s) -> NDArray[np.bool_]:
    """Whether a value is outside its range, so that int8 turns it into the end of it, `[B, D]`."""
    outside_BD: NDArray[np.bool_] = (vectors_BD < ranges_2D[0]) | (vectors_BD > ranges_2D[1])
    return outside_BD


def _required(ranges_2D: Float32s | None, dimensions: int) -> Float32s:
    if ranges_2D is None:
        raise UsageError("int8 vectors need the lowest and the highest value of each dimension; found no ranges")
    if ranges_2D.shape != (2, dimensions):
        raise UsageError(f"found ranges of shape {ranges_2D.shape}; expected {(2, dimensions)}, as the vectors have")
    return ranges_2D.astype(np.float32, copy=False)


def steps_of(ranges_2D: Float32s) -> Float32s:
    """How far apart two int8 values are in each dimension, `[D]`."""
    steps_D: Float32s = (ranges_2D[1] - ranges_2D[0]) / np.float32(_STEPS)
    steps_D[steps_D == 0] = 1
    return steps_D
