"""Vectors in fewer bytes: the types, the borders of ranges and bits, and what is rejected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minilm.errors import UsageError
from minilm.infer.vector_precision import (
    STORED_TYPES,
    dequantized,
    is_outside,
    quantized,
    ranges_of,
    stored_width,
)

VALUES = st.floats(-4, 4, width=32)


def row(*values):
    return np.array([values], dtype=np.float32)


@pytest.mark.parametrize("precision", STORED_TYPES)
def test_types_and_widths(precision):
    vectors = np.zeros((3, 13), dtype=np.float32)
    found = quantized(vectors, precision, np.stack([vectors[0] - 1, vectors[0] + 1]))
    assert found.dtype == STORED_TYPES[precision]
    assert found.shape == (3, stored_width(13, precision))
    assert quantized(vectors[:0], precision, np.stack([vectors[0], vectors[0]])).shape == (0, found.shape[1])


def test_binary_packs_signs_from_the_highest_bit():
    assert quantized(row(1, -1, 0, 2, -3, -4, -5, 1e-30, 7), "binary").tolist() == [[0b10010001, 0b10000000]]


def test_int8_rounds_down_within_the_range_and_stops_at_its_ends():
    ranges = np.array([[0] * 6, [255] * 6], dtype=np.float32)
    assert quantized(row(-3, 0, 0.99, 1, 254.99, 999), "int8", ranges).tolist() == [[-128, -128, -128, -127, 126, 127]]
    assert is_outside(row(-3, 0, 0.99, 1, 255, 999), ranges).tolist() == [[True, False, False, False, False, True]]


def test_int8_of_a_dimension_that_never_changes():
    ranges = np.array([[0.5], [0.5]], dtype=np.float32)
    assert quantized(row(0.5), "int8", ranges).tolist() == [[-128]]


def test_fp16_rejects_what_it_cannot_hold():
    assert quantized(row(65504), "fp16").tolist() == [[65504]]
    with pytest.raises(UsageError, match="the value 70000; fp16 holds at most 65504: use fp32"):
        quantized(row(1, -70000), "fp16")


@pytest.mark.parametrize(
    ("ranges", "message"),
    [(None, "found no ranges"), (np.zeros((2, 3), dtype=np.float32), r"shape \(2, 3\); expected \(2, 2\)")],
)
def test_int8_needs_the_ranges_of_these_vectors(ranges, message):
    with pytest.raises(UsageError, match=message):
        quantized(row(1, 2), "int8", ranges)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (5, 9), elements=VALUES))
def test_int8_is_within_one_step_and_keeps_the_order(vectors):
    """Holds for all vectors inside their ranges; a step is a 255th of the range."""
    ranges = ranges_of(vectors)
    codes = quantized(vectors, "int8", ranges)
    steps = (ranges[1] - ranges[0]) / 255
    assert (np.abs(dequantized(codes, ranges) - vectors) <= steps * 1.01 + 1e-6).all()
    assert not is_outside(vectors, ranges).any()
    ordered = np.take_along_axis(codes, np.argsort(vectors, axis=0), axis=0).astype(int)
    assert (np.diff(ordered, axis=0) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (4, 21), elements=VALUES))
def test_binary_bits_are_the_signs(vectors):
    bits = np.unpackbits(quantized(vectors, "binary"), axis=1)
    assert (bits[:, :21] == (vectors > 0)).all()
    assert not bits[:, 21:].any()
