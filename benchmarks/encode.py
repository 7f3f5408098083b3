"""Packed encoding against sentence-transformers at its defaults: same weights, texts in, vectors out.

Texts in natural order and of natural lengths; ours in fp32 and bf16, the peer in its default fp32. Floor: the
matrix products of the real tokens alone, at the rate this machine reaches on a large fp32 product.

    python benchmarks/encode.py
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import time

import numpy as np
import torch
from ab import interleaved, save
from sentence_transformers import SentenceTransformer
from texts import paragraphs

import minilm
from minilm.embedded import embedded_model
from minilm.train.allocator import keep_freed_memory

NUM_TEXTS = 600


def main() -> None:
    """Measure untuned first (both under the system's allocator settings), then with freed memory kept."""
    texts = paragraphs()[:NUM_TEXTS]
    peer = SentenceTransformer(str(embedded_model()))
    fp32, bf16 = minilm.load(embedded_model()), minilm.load(embedded_model(), precision="bf16")
    reference = peer.encode(texts)
    difference = float(np.abs(fp32.encode(texts) - reference).max())
    cosine = float((bf16.encode(texts) * reference).sum(1).min())
    tokens = sum(map(len, fp32.tokenizer.encode(texts, max_length=fp32.embedding.max_tokens)))
    rows: list[dict[str, object]] = []
    for allocator in ("system", "freed memory kept"):
        if allocator != "system":
            keep_freed_memory()
        seconds = interleaved(
            {
                "peer": lambda: peer.encode(texts),
                "fp32": lambda: fp32.encode(texts),
                "bf16": lambda: bf16.encode(texts),
            }
        )
        rows += [
            {
                "allocator": allocator,
                "precision": precision,
                "mean tokens": tokens / len(texts),
                "peer tokens/s": tokens / seconds["peer"],
                "tokens/s": tokens / seconds[precision],
                "ratio": seconds["peer"] / seconds[precision],
                "share of floor": fp32_floor(tokens) / seconds[precision],
                "largest difference": difference if precision == "fp32" else None,
                "least cosine": cosine if precision == "bf16" else None,
            }
            for precision in ("fp32", "bf16")
        ]
    save("encode", rows)


def fp32_floor(tokens: int) -> float:
    """Seconds for the encoder's weight products over `tokens` tokens at the machine's own fp32 product rate."""
    config = minilm.EncoderConfig.preset("L6-H384")
    weights = config.num_layers * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
    size = 2048
    a = torch.randn(size, size)
    packed = torch.ops.mkldnn._reorder_linear_weight(torch.randn(size, size), size)
    torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "none")
    started = time.perf_counter()
    for _ in range(5):
        torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "none")
    rate = 5 * 2 * size**3 / (time.perf_counter() - started)
    return 2 * weights * tokens / rate


if __name__ == "__main__":
    main()
