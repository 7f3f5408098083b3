"""Small random encoders for the kernels, and the instruction sets that this machine can run."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest

from minilm.kernels.encoder import LINEARS, NORMS, Map, NativeEncoder, Sizes
from minilm.kernels.library import find_library


def runnable() -> list[str]:
    """The instruction sets of this processor that are in the library; none without a library."""
    return [name for name in (find_library().text("minilm_kernels_isas") or "").split() if not name.endswith("-")]


@pytest.fixture(autouse=True)
def _library():
    found = find_library()
    if found.functions is None:
        assert os.environ.get("MINILM_KERNELS") != "require", found.reason
        assert "old library" not in found.reason, found.reason
        pytest.skip(found.reason)


@pytest.fixture(params=runnable() or ["none"])
def isa(request, monkeypatch):
    """Each instruction set of this machine in turn."""
    monkeypatch.setenv("MINILM_ISA", request.param)
    return request.param


def weights_of(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under plain names."""
    draw = np.random.default_rng(seed)
    width, ffn = sizes.hidden, sizes.ffn

    def normal(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) * (0.5 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1)).astype(np.float32)

    found = {"word": normal(sizes.vocab, width), "position": normal(sizes.positions, width)}
    found["segment"] = normal(max(1, sizes.segments), width)
    shapes = {"qkv": (width, width), "attention_out": (width, width), "ffn_in": (ffn, width), "ffn_out": (width, ffn)}
    for layer in range(sizes.layers):
        for name in LINEARS:
            for part in range(3 if name == "qkv" else 1):
                found[f"{layer}.{name}.{part}.weight"] = normal(*shapes[name])
                found[f"{layer}.{name}.{part}.bias"] = normal(shapes[name][0])
    for name in ("embedding", *(f"{layer}.{norm}" for layer in range(sizes.layers) for norm in NORMS)):
        found[f"{name}.weight"], found[f"{name}.bias"] = 1 + normal(width), normal(width)
    found |= {"pooler.weight": normal(width, width), "pooler.bias": normal(width)}
    found |= {"head.weight": normal(max(1, sizes.labels), width), "head.bias": normal(max(1, sizes.labels))}
    return found


def encoder_of(
    sizes: Sizes,
    weights: dict[str, np.ndarray],
    *,
    threads: int = 1,
    tile_tokens: int = 0,
    precision: str = "fp32",
    pooler: bool = True,
) -> NativeEncoder:
    """An encoder of the instruction set that MINILM_ISA names."""
    encoder = NativeEncoder(sizes, threads=threads, tile_tokens=tile_tokens)
    encoder.set_embeddings(
        weights["word"],
        weights["position"],
        weights["segment"] if sizes.segments else None,
        weights["embedding.weight"],
        weights["embedding.bias"],
    )
    for layer in range(sizes.layers):
        for name in LINEARS:
            parts = range(3 if name == "qkv" else 1)
            encoder.set_linear(
                layer,
                name,
                Map(
                    weights=[weights[f"{layer}.{name}.{part}.weight"] for part in parts],
                    biases=[weights[f"{layer}.{name}.{part}.bias"] for part in parts],
                    precision=precision,
                ),
            )
        for norm in NORMS:
            encoder.set_norm(layer, norm, weights[f"{layer}.{norm}.weight"], weights[f"{layer}.{norm}.bias"])
    if sizes.labels:
        out = Map(weights=[weights["head.weight"]], biases=[weights["head.bias"]])
        first = Map(weights=[weights["pooler.weight"]], biases=[weights["pooler.bias"]]) if pooler else None
        encoder.set_head(out, first)
    return encoder


def batch_of(sizes: Sizes, lengths: Sequence[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random ids and segments of sequences of these lengths, and where each begins."""
    draw = np.random.default_rng(seed)
    total = sum(lengths)
    ids = draw.integers(0, sizes.vocab, total).astype(np.int32)
    segments = draw.integers(0, max(1, sizes.segments), total).astype(np.int32)
    return ids, segments, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
