"""Exact search of stored vectors: the kernels, their twin in numpy, and `semantic_search` of sentence-transformers.

Random vectors of length 1 and a cosine, A B A B in one process. The peer searches float32 only; its scores and ours
must agree. The floor of few queries is reading the vectors once, that of many the products: both rates are in the rows,
beside what the machine reads and multiplies at most.

    python benchmarks/search_vectors.py --json benchmarks/results/search_vectors/MACHINE.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from ab import interleaved, json_file, machine, show
from sentence_transformers.util import semantic_search

from minilm.files.json import write_json
from minilm.infer.vector_precision import Float32s, quantized, ranges_of
from minilm.infer.vectors import normalized
from minilm.kernels.encoder import peak
from minilm.model.precision import VectorPrecision
from minilm.retrieval import search
from minilm.retrieval.search import Hits, nearest
from minilm.retrieval.vectors import StoredRows

PRECISIONS: tuple[VectorPrecision, ...] = ("fp32", "int8", "binary")
PEER = "sentence-transformers"
CALLS = (
    5  # of a side in a row: for some milliseconds after a product in numpy or torch, its threads keep their cores busy
)


def main() -> None:
    """Measure, print a line per row and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--best", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.json is not None:
        json_file(parser, options.json)
    draw = np.random.default_rng(0)
    vectors = normalized(draw.standard_normal((options.vectors, options.dimensions), dtype=np.float32))
    threads = torch.get_num_threads()
    total = np.empty_like(vectors)
    reading = interleaved({"copy": lambda: np.copyto(total, vectors)})["copy"]
    limits = {
        "GFLOP/s at most": peak("fp32", threads),
        "GB/s read and written by a copy": 2 * vectors.nbytes / reading / 1e9,
    }
    rows = []
    for precision in PRECISIONS:
        ranges = ranges_of(vectors) if precision == "int8" else None
        stored = StoredRows(
            stored_NW=quantized(vectors, precision, ranges),
            dimensions=options.dimensions,
            precision=precision,
            ranges_2D=ranges,
        )
        for count in options.queries:
            queries = normalized(draw.standard_normal((count, options.dimensions), dtype=np.float32))
            rows.append({"vectors": precision, "queries": count, **measured(queries, stored, options)})
            show(rows[-1:])
    if options.json is not None:
        facts = {"vectors": options.vectors, "dimensions": options.dimensions, "best": options.best, **limits}
        write_json(options.json, {"machine": machine(), **facts, "rows": rows})


def measured(queries_QD: Float32s, stored: StoredRows, options: argparse.Namespace) -> dict[str, object]:
    """Milliseconds of each side, its ratio to the kernels, and the rates of the kernels."""
    native = partial(nearest, queries_QD, stored, similarity="cosine", k=options.best)
    sides: dict[str, Callable[[], object]] = {"kernels": native, "numpy": partial(in_numpy, native)}
    agree(native(), in_numpy(native))
    if stored.precision == "fp32":
        asked, corpus = torch.from_numpy(queries_QD), torch.from_numpy(np.asarray(stored.stored_NW))
        sides[PEER] = partial(semantic_search, asked, corpus, top_k=options.best)
        found = semantic_search(asked, corpus, top_k=options.best)
        np.testing.assert_allclose([[hit["score"] for hit in hits] for hits in found], native().scores_QK, atol=1e-5)
    repeated = {name: partial(several, work) for name, work in sides.items()}
    seconds = {name: one / CALLS for name, one in interleaved(repeated, repetitions=options.repetitions).items()}
    own = seconds["kernels"]
    return {
        **{f"{name} ms": 1e3 * one for name, one in seconds.items()},
        **{f"{name} / kernels": one / own for name, one in seconds.items() if name != "kernels"},
        "GB/s": stored.stored_NW.nbytes / own / 1e9,
        "GFLOP/s": 2 * len(queries_QD) * len(stored) * stored.dimensions / own / 1e9,
    }


def several(work: Callable[[], object]) -> None:
    """Call it some times."""
    for _ in range(CALLS):
        work()


def in_numpy(search_vectors: partial[Hits]) -> Hits:
    """The same without kernels."""
    with mock.patch.object(search.SearchKernel, "shared", return_value=None):
        return search_vectors()


def agree(first: Hits, second: Hits) -> None:
    """Fail unless both found the same."""
    np.testing.assert_allclose(first.scores_QK, second.scores_QK, atol=1e-5)


if __name__ == "__main__":
    main()
