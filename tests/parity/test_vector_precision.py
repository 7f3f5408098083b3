"""Proves that quantized vectors have the bytes of sentence-transformers' `quantize_embeddings`."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.infer.vector_precision import dequantized, quantized, ranges_of

quantization = pytest.importorskip(
    "sentence_transformers.util.quantization",
    reason="sentence-transformers is not installed: pip install sentence-transformers",
)


@pytest.fixture(scope="module")
def vectors():
    """Unit vectors of a width that is no multiple of eight, with one constant dimension."""
    found = np.random.default_rng(0).standard_normal((300, 100)).astype(np.float32)
    found[:, 7] = 0.25
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize(("precision", "theirs"), [("fp32", "float32"), ("binary", "ubinary")])
def test_floats_and_bits(vectors, precision, theirs):
    expected = quantization.quantize_embeddings(vectors, theirs)
    found = quantized(vectors, precision)
    assert found.dtype == expected.dtype
    assert (found == expected).all()


@pytest.mark.parametrize("calibration", [slice(None), slice(0, 20)])
def test_int8_by_the_ranges_of_calibration_vectors(vectors, calibration):
    """The second case has values outside the ranges."""
    expected = quantization.quantize_embeddings(vectors, "int8", calibration_embeddings=vectors[calibration])
    ranges = ranges_of(vectors[calibration])
    found = quantized(vectors, "int8", ranges)
    assert found.dtype == expected.dtype
    assert (found == expected).all()
    theirs = quantization._dequantize_embeddings(expected, "int8", ranges)
    np.testing.assert_allclose(dequantized(found, ranges), theirs, atol=1e-6)


def test_int8_by_fixed_symmetric_ranges(vectors):
    ranges = np.full((2, 100), 0.18, dtype=np.float32) * np.array([[-1], [1]], dtype=np.float32)
    assert (quantized(vectors, "int8", ranges) == quantization.quantize_embeddings(vectors, "int8", ranges)).all()
