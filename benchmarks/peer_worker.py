"""A peer in a separate process for encode_peers.py: texts in, vectors out, in the protocol of `minilm.bench.worker`.

In: the weights in the peer's format, as encode_peers.py exports them. Out: vectors with mean pooling and length 1.
Every peer gets our tokenization and sorting, which is more than it ships; of several batch sizes and numbers of streams
the fastest one counts for each workload.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from minilm.bench import worker

BATCH_SIZES = (8, 16, 32)
Compute = Callable[[list[list[int]]], np.ndarray]


def encode(texts: list[str], tokenizer: Tokenizer, compute: Compute, *, size: int, streams: int) -> np.ndarray:
    """The vectors of texts, sorted by length and in batches of `size`, on several threads."""
    ids = [one.ids for one in tokenizer.encode_batch_fast(texts)]
    order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    batches = [[ids[index] for index in part] for part in parts]
    if streams == 1 or len(parts) == 1:
        found: Iterator[np.ndarray] = map(compute, batches)
    else:
        with ThreadPoolExecutor(streams) as pool:
            found = iter(list(pool.map(compute, batches)))
    out = np.empty((len(ids), 0), dtype=np.float32)
    for part, vectors in zip(parts, found, strict=True):
        out = out if out.shape[1] else np.empty((len(ids), vectors.shape[1]), dtype=np.float32)
        out[part] = vectors
    return out


def padded(ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """The inputs of the exported graph."""
    longest = max(map(len, ids))
    tokens, mask = (np.zeros((len(ids), longest), dtype=np.int64) for _ in range(2))
    for row, one in enumerate(ids):
        tokens[row, : len(one)], mask[row, : len(one)] = one, 1
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}


def openvino(request: Mapping[str, Any], streams: int) -> Compute:
    """OpenVINO: the file, and the hint of the precision of everything that is not int8."""
    import openvino as ov

    options = {"INFERENCE_NUM_THREADS": request["threads"], "INFERENCE_PRECISION_HINT": request["hint"]}
    options |= {"NUM_STREAMS": streams} if streams > 1 else {"PERFORMANCE_HINT": "LATENCY"}
    compiled, local = ov.Core().compile_model(request["file"], "CPU", options), threading.local()

    def compute(ids: list[list[int]]) -> np.ndarray:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        return local.request.infer(padded(ids))[0].copy()

    return compute


def onnxruntime(request: Mapping[str, Any], streams: int) -> Compute:
    """onnxruntime: the file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"] if streams == 1 else 1
    session = ort.InferenceSession(request["file"], options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, padded(ids))[0]


def ctranslate2(request: Mapping[str, Any], streams: int) -> Compute:
    """CTranslate2: the folder, and the type of its products."""
    import ctranslate2 as ct2

    threads = {"inter_threads": streams, "intra_threads": 1 if streams > 1 else request["threads"]}
    encoder = ct2.Encoder(request["file"], device="cpu", compute_type=request["hint"], **threads)

    def compute(ids: list[list[int]]) -> np.ndarray:
        hidden = np.asarray(encoder.forward_batch(ids).last_hidden_state)
        means = np.stack([rows[: len(one)].mean(0) for rows, one in zip(hidden, ids, strict=True)])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    return compute


def variants(make: Callable[[Mapping[str, Any], int], Compute], request: Mapping[str, Any]) -> list[worker.Variant]:
    """One stream with all threads first, which serves single texts; then as many streams as threads."""
    tokenizer = Tokenizer.from_file(str(Path(request["model"]) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(request["max_tokens"])
    found: list[worker.Variant] = []
    for streams in sorted({1, request["threads"]}):
        compute = make(request, streams)
        found += [partial(encode, tokenizer=tokenizer, compute=compute, size=n, streams=streams) for n in BATCH_SIZES]
    return found


if __name__ == "__main__":
    peers = {"openvino": openvino, "onnxruntime": onnxruntime, "ctranslate2": ctranslate2}
    worker.main({name: partial(variants, make) for name, make in peers.items()})
