"""The native engine: the compiled packed encoder. It needs no torch.

In: a model folder, batches as `PackedIds`. Out: numpy arrays, float32. A result does not depend on the rest of its
batch, on the number of threads or on the order: it is the same bits.

B sequences, T packed tokens, E hidden width, P number of pooling modes, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minilm.files.sentence_modules import transformer_folder
from minilm.files.tensors import release_pages
from minilm.infer.engines.int8 import Int8Maps, read_int8, require_same_weights
from minilm.infer.engines.protocol import CannotRun, Float32s
from minilm.infer.engines.threads import num_threads
from minilm.kernels.encoder import (
    ACTIVATIONS,
    LINEARS,
    NORMS,
    Map,
    NativeEncoder,
    Refused,
    Sizes,
    kernels_have_bf16,
    library_reason,
)
from minilm.model.config import FAMILIES, EncoderConfig
from minilm.model.embedding import PoolingMode
from minilm.model.metadata import HeadName, num_scores, read_config
from minilm.model.packed_ids import Int32s, PackedIds
from minilm.model.precision import Precision
from minilm.model.weights import encoder_arrays, expected_shapes


def load_native_engine(
    folder: Path, head: HeadName | None, precision: Precision, threads: int | None, *, int8: Int8Maps | None = None
) -> NativeEngine:
    """Read the model in `folder`; in int8 with the scales of the folder, unless others are given.

    Raises:
        CannotRun: the kernels cannot run this model or precision here; the torch engine may.
        UsageError: the precision is int8 and the folder has no scales.
        DataError: the files in the folder are inconsistent.
    """
    config, weights = read_config(folder), transformer_folder(folder)
    if reason := unsupported(config, head, precision):
        raise CannotRun(reason)
    if precision != "int8" or int8 is not None:
        return _loaded(folder, config, head, precision, threads, int8)
    from concurrent.futures import ThreadPoolExecutor

    scales = read_int8(weights, config)
    with ThreadPoolExecutor(1) as beside:  # the hash of the weights takes longer than anything else here
        same = beside.submit(require_same_weights, weights, scales)
        engine = _loaded(folder, config, head, precision, threads, scales)
        same.result()
    return engine


def _loaded(
    folder: Path,
    config: EncoderConfig,
    head: HeadName | None,
    precision: Precision,
    threads: int | None,
    int8: Int8Maps | None,
) -> NativeEngine:
    num_labels = num_scores(folder, head)
    found = encoder_arrays(transformer_folder(folder), config, head, num_labels=num_labels)
    if missing := [name for name in expected_shapes(config, head, num_labels=num_labels) if name not in found]:
        raise CannotRun(f"the file lacks {len(missing)} weights, such as {missing[0]}")
    try:
        encoder = NativeEncoder(_sizes(config, labels=num_labels), threads=num_threads(threads))
    except Refused as reason:  # a limit that `Sizes.unsupported` does not name
        raise CannotRun(str(reason)) from None
    _set_weights(encoder, found, config, precision, int8)
    if head is not None:
        pooler = _map(found, "encoder.pooler") if head == "classification" else None
        encoder.set_head(_map(found, "head.out"), pooler)
    release_pages(part for parts in found.values() for part in parts)
    return NativeEngine(encoder, head)


class NativeEngine:
    """A model that the kernels run."""

    tokens_per_batch = 16_384  # it divides a batch into small tiles itself; threads wait for each other at its end

    def __init__(self, encoder: NativeEncoder, head: HeadName | None) -> None:
        """Use an encoder with its weights and the scores of `head`."""
        self._encoder, self.head = encoder, head

    def pooled(self, batch: PackedIds, pooling: Sequence[PoolingMode], *, skipped: int = 0) -> Float32s:
        """One vector per sequence, `[B, P * E]`."""
        return self._encoder.pooled(*_arrays(batch), pooling, skipped=skipped)

    def classify(self, batch: PackedIds) -> Float32s:
        """Scores of the classification head, `[B, C]`."""
        return self._encoder.classify(*_arrays(batch))

    def tokens(self, batch: PackedIds) -> Float32s:
        """Scores of the head for every token, `[T, C]`."""
        return self._encoder.tokens(*_arrays(batch))

    def relations(self, batch: PackedIds, layer: int) -> tuple[Float32s, Float32s, Float32s]:
        """Queries, keys and values of a layer (1-based), `[T, E]` each."""
        return self._encoder.relations(*_arrays(batch), layer=layer - 1)


def _arrays(batch: PackedIds) -> tuple[Int32s, Int32s, Int32s]:
    return batch.token_ids, batch.segment_ids, batch.cu_seqlens


def unsupported(config: EncoderConfig, head: HeadName | None, precision: Precision) -> str:
    """Why the kernels cannot run a model; "" if they can."""
    if reason := library_reason():
        return reason
    if FAMILIES[config.family].relative_positions:
        return f"{config.family} models have relative positions"
    if config.embedding_width != config.hidden_size:
        return f"its embeddings have the width {config.embedding_width}, not {config.hidden_size}"
    if head == "mlm":
        return "it generates texts"
    if precision == "bf16" and not kernels_have_bf16():
        return "this processor has no products of bfloat16 (AVX-512 BF16)"
    return _sizes(config, labels=0).unsupported()


def _sizes(config: EncoderConfig, *, labels: int) -> Sizes:
    family = FAMILIES[config.family]
    return Sizes(
        hidden=config.hidden_size,
        heads=config.num_heads,
        ffn=config.intermediate_size,
        layers=config.num_layers,
        vocab=config.vocab_size,
        positions=config.max_positions,
        segments=config.num_segments if family.segments else 0,
        first_position=config.first_position,
        labels=labels,
        activation=ACTIVATIONS.index(config.hidden_act.replace("pytorch_", "")),
        pooler_activation=ACTIVATIONS.index(family.pooler.lower()),
        eps=config.layer_norm_eps,
    )


def _map(
    found: Mapping[str, tuple[np.ndarray, ...]], name: str, precision: Precision = "fp32", int8: Int8Maps | None = None
) -> Map:
    smoothing = None
    if int8 is not None:
        smoothing = int8.smoothing.get(name.removeprefix("encoder."))
        precision = "int8" if smoothing is not None else "bf16" if kernels_have_bf16() else "fp32"
    return Map(weights=found[f"{name}.weight"], biases=found[f"{name}.bias"], precision=precision, smoothing=smoothing)


def _set_weights(
    encoder: NativeEncoder,
    found: Mapping[str, tuple[np.ndarray, ...]],
    config: EncoderConfig,
    precision: Precision,
    int8: Int8Maps | None,
) -> None:
    def one(name: str) -> np.ndarray:
        return found[name][0]

    base = "encoder.embeddings"
    segment = one(f"{base}.segment.weight") if FAMILIES[config.family].segments else None
    encoder.set_embeddings(
        one(f"{base}.word.weight"),
        one(f"{base}.position.weight"),
        segment,
        one(f"{base}.norm.weight"),
        one(f"{base}.norm.bias"),
    )
    for number in range(config.num_layers):
        layer = f"encoder.layers.{number}"
        for name in LINEARS:
            encoder.set_linear(number, name, _map(found, f"{layer}.{name}", precision, int8))
        for norm in NORMS:
            encoder.set_norm(number, norm, one(f"{layer}.{norm}.weight"), one(f"{layer}.{norm}.bias"))
