"""An encoder in plain float64, and the vectors that `check.cpp` compares the kernels with.

`python tests/kernels/vectors/reference.py` writes `expected.bin` beside it: the models, the batches and what is
expected, but no weights. Those come from a generator of whole numbers that the program has too: number i of array n is
a hash of both. `expected.bin` is lines of text, each of expected numbers followed by them as float32:

    model NAME hidden heads ffn layers vocab positions segments first_position labels activation pooler_activation
    lengths COUNT LENGTHS...
    expect OUTPUT PRECISION LAYER SKIPPED COUNT-OF-MODES MODES... COUNT-OF-NUMBERS

T packed tokens, N tokens of one sequence, E hidden width, K inputs of a map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.kernels.encoder import ACTIVATIONS, LINEARS, POOLING, Sizes

FILE = Path(__file__).with_name("expected.bin")
Floats = NDArray[np.float64]
Model = tuple[Sizes, dict[str, Floats]]

# Widths that are no whole vectors, heads, a table of positions that begins later, inputs in several pieces, more rows
# than are computed at once.
CASES = {
    "narrow": (
        Sizes(hidden=24, heads=2, ffn=104, layers=2, vocab=50, positions=40, segments=2, labels=5),
        (1, 7, 17, 33, 2),
    ),
    "gelu_tanh": (
        Sizes(
            **dict(hidden=64, heads=2, ffn=136, layers=2, vocab=40, positions=80, segments=0, labels=35),
            **dict(first_position=2, activation=1, pooler_activation=0),
        ),
        (64, 1, 9),
    ),
    "long": (
        Sizes(
            **dict(hidden=128, heads=4, ffn=1040, layers=1, vocab=90, positions=140, segments=1, labels=2),
            **dict(activation=2, pooler_activation=2),
        ),
        (1, 130, 97, 8),
    ),
}
SMOOTHED = ("attention_out", "ffn_in")
"""The int8 maps whose inputs are multiplied by factors."""


def hashed(array: int, count: int) -> NDArray[np.uint32]:
    """`count` whole numbers of 32 bits; other ones for another number of the array."""
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint32) + np.uint32(array << 24)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def numbers(array: int, shape: tuple[int, ...], scale: float) -> Floats:
    """Multiples of scale / 32768 in [-scale, scale), each a float32 exactly."""
    whole = (hashed(array, math.prod(shape)) >> np.uint32(16)).astype(np.float64) - 32768
    return (whole * (scale / 32768)).reshape(shape)


def weights_of(sizes: Sizes) -> dict[str, Floats]:
    """All arrays of a model; their order is that of their numbers."""
    width, ffn, labels = sizes.hidden, sizes.ffn, sizes.labels
    shapes: dict[str, tuple[tuple[int, ...], float]] = {
        "word": ((sizes.vocab, width), 1.0),
        "position": ((sizes.positions, width), 1.0),
        "segment": ((sizes.segments, width), 1.0),
        "embedding.weight": ((width,), 0.25),
        "embedding.bias": ((width,), 0.25),
    }
    for layer in range(sizes.layers):
        for name in LINEARS:
            out, into = {"ffn_in": (ffn, width), "ffn_out": (width, ffn)}.get(name, (width, width))
            for part in range(3 if name == "qkv" else 1):
                shapes[f"{layer}.{name}.{part}.weight"] = ((out, into), 2.0 ** -(into.bit_length() // 2))
                shapes[f"{layer}.{name}.{part}.bias"] = ((out,), 0.25)
            shapes[f"{layer}.{name}.smoothing"] = ((into,), 0.5)
        for norm in ("attention_norm", "ffn_norm"):
            shapes[f"{layer}.{norm}.weight"] = shapes[f"{layer}.{norm}.bias"] = ((width,), 0.25)
    for name, out in (("pooler", width), ("head", labels)):
        shapes[f"{name}.weight"] = ((out, width), 2.0 ** -(width.bit_length() // 2))
        shapes[f"{name}.bias"] = ((out,), 0.25)
    found = {name: numbers(number, *shape) for number, (name, shape) in enumerate(shapes.items())}
    for name, array in found.items():
        if name.endswith("smoothing") or (name.endswith("weight") and array.ndim == 1):
            array += 1
    return found


def batch_of(sizes: Sizes, lengths: tuple[int, ...]) -> tuple[NDArray[np.uint32], NDArray[np.uint32], list[int]]:
    """Ids, segments, and where each sequence begins and the last ends."""
    total = sum(lengths)
    ids, segments = hashed(254, total) % sizes.vocab, hashed(255, total) % max(1, sizes.segments)
    return ids, segments, [sum(lengths[:number]) for number in range(len(lengths) + 1)]


def linear(x_TK: Floats, weight: Floats, bias: Floats, precision: str, smoothing: Floats | None) -> Floats:
    """A map; in int8 as `docs/reference.md` says: one scale for each output of the weights and each row of inputs."""
    if precision != "int8":
        return x_TK @ weight.T + bias
    if smoothing is not None:
        x_TK, weight = x_TK * smoothing, weight / smoothing
    step = np.abs(weight).max(1) / 127
    whole = np.rint(weight / step[:, None])
    top, bottom = np.maximum(x_TK.max(1), 0)[:, None], np.minimum(x_TK.min(1), 0)[:, None]
    scale = (top - bottom) / 255
    zero = np.rint(-bottom / scale)
    bytes_TK = np.clip(np.rint(x_TK / scale + zero), 0, 255)
    return (bytes_TK - zero) @ whole.T * scale * step + bias


def activate(x: Floats, kind: int) -> Floats:
    """An activation by its number."""
    name = ACTIVATIONS[kind]
    if name == "gelu":
        return x * np.vectorize(lambda one: 0.5 * math.erfc(-one / math.sqrt(2)), otypes=[float])(x)
    if name == "gelu_tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return np.maximum(x, 0) if name == "relu" else np.tanh(x)


def layer_norm(x: Floats, weights: dict[str, Floats], name: str) -> Floats:
    """LayerNorm of each row."""
    normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12)
    return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(query_NE: Floats, key_NE: Floats, value_NE: Floats, heads: int) -> Floats:
    """Attention of one sequence."""
    size = query_NE.shape[1] // heads
    out = np.empty_like(query_NE)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query_NE[:, part] @ key_NE[:, part].T / math.sqrt(size)
        powers = np.exp(scores - scores.max(1, keepdims=True))
        out[:, part] = powers / powers.sum(1, keepdims=True) @ value_NE[:, part]
    return out


def encode(model: Model, lengths: tuple[int, ...], precision: str) -> tuple[Floats, list[list[Floats]]]:
    """The rows after the last layer, [T, E], and the queries, keys and values of each."""
    sizes, weights = model
    ids, segments, ends = batch_of(sizes, lengths)
    places = sizes.first_position + np.concatenate([np.arange(length) for length in lengths])
    hidden = weights["word"][ids] + weights["position"][places]
    if sizes.segments:
        hidden += weights["segment"][segments]
    hidden = layer_norm(hidden, weights, "embedding")
    relations = []
    for layer in range(sizes.layers):

        def mapped(x: Floats, name: str, part: int = 0, layer: int = layer) -> Floats:
            arrays = [weights[f"{layer}.{name}.{part}.{kind}"] for kind in ("weight", "bias")]
            return linear(x, *arrays, precision, weights[f"{layer}.{name}.smoothing"] if name in SMOOTHED else None)

        parts = [mapped(hidden, "qkv", part) for part in range(3)]
        relations.append(parts)
        pieces = [attention(*(part[begin:end] for part in parts), sizes.heads) for begin, end in pairwise(ends)]
        hidden = layer_norm(
            hidden + mapped(np.concatenate(pieces), "attention_out"), weights, f"{layer}.attention_norm"
        )
        inner = activate(mapped(hidden, "ffn_in"), sizes.activation)
        hidden = layer_norm(hidden + mapped(inner, "ffn_out"), weights, f"{layer}.ffn_norm")
    return hidden, relations


def pool(rows: Floats, mode: str, skipped: int) -> Floats:
    """One vector of the rows of a sequence without the first `skipped`."""
    kept, places = rows[skipped:], np.arange(skipped + 1, len(rows) + 1)[:, None]
    if mode == "cls":
        return kept[0] if len(kept) else rows[0]
    if not len(kept):
        return np.full(rows.shape[1], -np.inf if mode == "max" else 0.0)
    if mode == "lasttoken":
        return kept[-1]
    if mode == "max":
        return kept.max(0)
    if mode == "mean":
        return kept.mean(0)
    return (
        kept.sum(0) / math.sqrt(len(kept)) if mode == "mean_sqrt_len_tokens" else (kept * places).sum(0) / places.sum()
    )


def expectations(name: str) -> Iterator[tuple[str, Floats]]:
    """What is expected of a case: the words after `expect`, without the count of the numbers, and the numbers."""
    sizes, lengths = CASES[name]
    model = sizes, weights_of(sizes)
    weights, ends = model[1], batch_of(sizes, lengths)[2]
    hidden, relations = encode(model, lengths, "fp32")
    quantised = encode(model, lengths, "int8")[0]

    def pooled(rows: Floats, modes: tuple[str, ...], skipped: int) -> Floats:
        pieces = [rows[begin:end] for begin, end in pairwise(ends)]
        return np.stack([np.concatenate([pool(piece, mode, skipped) for mode in modes]) for piece in pieces])

    def words(output: int, precision: int, layer: int, skipped: int, modes: tuple[str, ...] = ()) -> str:
        numbers = (output, precision, layer, skipped, len(modes), *map(POOLING.index, modes))
        return " ".join(map(str, numbers))

    some = ("mean", "max") if name == "long" else POOLING
    yield words(0, 0, 0, 0, some), pooled(hidden, some, 0)
    yield words(0, 0, 0, 0, ("cls",)), pooled(hidden, ("cls",), 0)
    yield words(0, 2, 0, 0, ("mean", "cls")), pooled(quantised, ("mean", "cls"), 0)
    first = hidden[ends[:-1]]
    vectors = activate(first @ weights["pooler.weight"].T + weights["pooler.bias"], sizes.pooler_activation)
    yield words(1, 0, 0, 0), vectors @ weights["head.weight"].T + weights["head.bias"]
    if name == "narrow":
        yield words(0, 0, 0, 3, POOLING), pooled(hidden, POOLING, 3)
        yield words(2, 0, 0, 0), hidden @ weights["head.weight"].T + weights["head.bias"]
        yield words(3, 0, 1, 0), np.stack(relations[1])


def content() -> bytes:
    """The bytes of the file."""
    found = b""
    for name, (sizes, lengths) in CASES.items():
        numbers = astuple(sizes)[:-1]  # without eps
        found += f"model {name} {' '.join(map(str, numbers))}\n".encode()
        found += f"lengths {len(lengths)} {' '.join(map(str, lengths))}\n".encode()
        for words, expected in expectations(name):
            found += f"expect {words} {expected.size}\n".encode() + expected.astype("<f4").tobytes() + b"\n"
    return found


if __name__ == "__main__":
    FILE.write_bytes(content())
