"""Searching int8 and binary vectors gives the order to which sentence-transformers rescores its candidates."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.infer.vector_precision import quantized, ranges_of
from minilm.retrieval.search import nearest
from minilm.retrieval.vectors import StoredRows

pytest.importorskip("sentence_transformers", reason="quantization is compared with it: pip install 'minilm[bench]'")


def unit(array):
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_all_documents_are_in_the_order_of_rescored_candidates(precision):
    """Its rescoring multiplies the query in float32 by the bits, or by the values that int8 stands for."""
    from sentence_transformers.util import quantize_embeddings

    random = np.random.default_rng(0)
    documents, queries = unit(random.normal(size=(200, 20))), unit(random.normal(size=(5, 20)))
    ranges = ranges_of(documents) if precision == "int8" else None
    if ranges is not None:
        codes = quantize_embeddings(documents, precision="int8", ranges=ranges)
        values = (codes.astype(np.float32) + 128) * ((ranges[1] - ranges[0]) / 255) + ranges[0]
    else:
        values = np.unpackbits(quantize_embeddings(documents, precision="ubinary"), axis=-1)[:, :20].astype(int)
    expected = np.argsort(-(queries.astype(np.float64) @ values.T), axis=1, kind="stable")
    stored = StoredRows(
        stored_NW=quantized(documents, precision, ranges), dimensions=20, precision=precision, ranges_2D=ranges
    )
    np.testing.assert_array_equal(nearest(queries, stored, similarity="dot", k=50).rows_QK, expected[:, :50])
