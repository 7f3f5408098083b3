"""The native encoder: the compiled BERT-shaped encoder as a Python object.

In: sizes, arrays of weights (float32, the layouts of Hugging Face), packed token ids. Out: numpy arrays, float32.

Arrays of embeddings are used where they are and must not change; all other weights are copied into the layout of the
kernels. A call releases the GIL. Several threads may call at once: one waits for the other.

B sequences, T packed tokens, E hidden width, F feed-forward width, P number of pooling modes, C labels.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from minilm.errors import UsageError
from minilm.kernels.library import NotCopied, declared, error_of, find_library

Float32s = NDArray[np.float32]
Int32s = NDArray[np.int32]
LinearPrecision = Literal["fp32", "bf16", "int8"]

ISA_VARIABLE = "MINILM_ISA"
TILE_VARIABLE = "MINILM_TILE_TOKENS"
_MOST_TILE_TOKENS = 1 << 16
POOLING = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "tanh")
LINEARS = ("qkv", "attention_out", "ffn_in", "ffn_out")
"""The linear maps of a layer, in the order in which they are computed."""

NORMS = ("attention_norm", "ffn_norm")
"""The norms of a layer, each after the sum of its input and the map before."""

_PRECISIONS: tuple[LinearPrecision, ...] = ("fp32", "bf16", "int8")
_POOLED, _CLASSIFY, _TOKENS, _RELATIONS = range(4)
_WIDEST, _WIDEST_FFN, _WIDEST_HEAD = 1024, 4096, 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes of an encoder and its head; the fields and their order are those of `MinilmShape` in `cpp/api.cpp`.

    Attributes:
        first_position: position of the first token of a sequence.
        labels: scores of the head; 0 without one.
        activation: of the feed-forward network, an index of `ACTIVATIONS`.
        pooler_activation: of the pooler of a classifier.
        eps: of the layer norms.
    """

    hidden: int
    heads: int
    ffn: int
    layers: int
    vocab: int
    positions: int
    segments: int
    first_position: int = 0
    labels: int = 0
    activation: int = 0
    pooler_activation: int = 3
    eps: float = 1e-12

    def unsupported(self) -> str:
        """Why the kernels cannot run an encoder of these sizes; "" if they can."""
        if self.hidden % 8 or not 8 <= self.hidden <= _WIDEST:
            return f"its hidden size is {self.hidden}; expected a multiple of 8 up to {_WIDEST}"
        if self.ffn % 8 or not 8 <= self.ffn <= _WIDEST_FFN:
            return f"its intermediate size is {self.ffn}; expected a multiple of 8 up to {_WIDEST_FFN}"
        if self.hidden // self.heads > _WIDEST_HEAD:
            return f"the width of a head is {self.hidden // self.heads}; expected at most {_WIDEST_HEAD}"
        return ""


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float if name == "eps" else ctypes.c_int32) for name in Sizes.__dataclass_fields__]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Map:
    """A linear map; three weights and biases for query, key and value.

    Attributes:
        weights: `[out, in]` each.
        biases: `[out]` each.
        precision: of its products.
        smoothing: `[in]`, factors of the inputs before they become int8; the weights are divided by them.
    """

    weights: Sequence[Float32s]
    biases: Sequence[Float32s]
    precision: LinearPrecision = "fp32"
    smoothing: Float32s | None = None


def library_reason() -> str:
    """Why there are no kernels; "" if there are."""
    return find_library().reason


def chosen_isa() -> str:
    """The instruction set that the kernels use: the best, or the one that the environment variable names.

    Raises:
        UsageError: the processor does not have it, or there is no such one.
        SystemProblem: there are no kernels.
    """
    functions = _functions()
    name = functions.minilm_kernels_selected(os.fsencode(os.environ.get(ISA_VARIABLE, "")))
    if name is None:
        raise UsageError(f"{ISA_VARIABLE}: {error_of(functions)}")
    chosen: bytes = name
    return chosen.decode()


def kernels_have_bf16() -> bool:
    """Whether the chosen instruction set has products of bfloat16; raises as `chosen_isa`."""
    return bool(_functions().minilm_kernels_has_bf16(chosen_isa().encode()))


def peak(precision: LinearPrecision, threads: int) -> float:
    """The most that the processor's units can do, in 10^9 operations a second, measured; 0 where it has none.

    Raises as `chosen_isa`.
    """
    found: float = _functions().minilm_peak(chosen_isa().encode(), _PRECISIONS.index(precision), threads)
    return found


def _tile_tokens_wanted() -> int:
    """What the environment variable says; 0 if it is not set."""
    value = os.environ.get(TILE_VARIABLE, "")
    if not value:
        return 0
    if not value.isdecimal() or not 1 <= int(value[:9]) <= _MOST_TILE_TOKENS:
        raise UsageError(f"{TILE_VARIABLE} is {value!r:.40}; expected a number from 1 to {_MOST_TILE_TOKENS}")
    return int(value)


class Refused(UsageError):
    """The kernels reject what they are given; the message is the reason."""


class NativeEncoder(NotCopied):
    """An encoder in the layout of the kernels, with its threads.

    Raises (all methods): Refused, or UsageError where an array does not have the shape that belongs to the sizes.
    """

    def __init__(self, sizes: Sizes, *, threads: int, tile_tokens: int = 0) -> None:
        """Create an encoder without weights.

        Args:
            sizes: its sizes.
            threads: how many threads compute.
            tile_tokens: tokens that one thread takes through all layers at once; 0: as the environment variable says,
                else as its cache allows.
        """
        self._handle: int | None = None
        self.sizes, self.threads, self.isa = sizes, threads, chosen_isa()
        self._functions, self._process = _functions(), os.getpid()
        self._kept: list[Float32s] = []
        handle, tile_tokens = ctypes.c_void_p(), tile_tokens or _tile_tokens_wanted()
        self._check(
            self._functions.minilm_create(
                ctypes.byref(_Shape(*astuple(sizes))), self.isa.encode(), threads, tile_tokens, ctypes.byref(handle)
            )
        )
        self._handle = handle.value

    def __del__(self) -> None:
        """Free the memory and end the threads."""
        if self._handle is not None:
            self._functions.minilm_free(self._handle)

    @property
    def tile_tokens(self) -> int:
        """Tokens that one thread takes through all layers at once."""
        found: int = self._functions.minilm_tile_tokens(self._handle)
        return found

    def set_embeddings(
        self, word: Float32s, position: Float32s, segment: Float32s | None, weight: Float32s, bias: Float32s
    ) -> None:
        """Tables `[number, E]`, which are kept, and the norm after their sum."""
        size = self.sizes
        tables = [
            _exact(word, (size.vocab, size.hidden)),
            _exact(position, (size.positions, size.hidden)),
            *([] if segment is None else [_exact(segment, (size.segments, size.hidden))]),
        ]
        self._kept = tables
        norm = [_exact(array, (size.hidden,)) for array in (weight, bias)]
        addresses = [_address(table) for table in tables] + [None] * (3 - len(tables))
        self._check(self._functions.minilm_set_embeddings(self._handle, *addresses, *map(_address, norm)))

    def set_linear(self, layer: int, name: str, linear: Map) -> None:
        """The map `name`, one of `LINEARS`, of a layer (from 0)."""
        hidden, ffn = self.sizes.hidden, self.sizes.ffn
        out, into = {"ffn_in": (ffn, hidden), "ffn_out": (hidden, ffn)}.get(name, (hidden, hidden))
        weights = [_exact(array, (out, into)) for array in linear.weights]
        biases = [_exact(array, (out,)) for array in linear.biases]
        if len(weights) != (3 if name == "qkv" else 1) or len(biases) != len(weights):
            raise UsageError(f"{name} has {len(weights)} weights; expected query, key and value for qkv, else one")
        smoothing = None if linear.smoothing is None else _exact(linear.smoothing, (into,))
        pointers = ctypes.c_void_p * len(weights)
        self._check(
            self._functions.minilm_set_linear(
                self._handle,
                layer,
                LINEARS.index(name),
                _PRECISIONS.index(linear.precision),
                pointers(*map(_address, weights)),
                pointers(*map(_address, biases)),
                None if smoothing is None else _address(smoothing),
            )
        )

    def set_norm(self, layer: int, name: str, weight: Float32s, bias: Float32s) -> None:
        """The norm `name`, one of `NORMS`, of a layer (from 0)."""
        norm = [_exact(array, (self.sizes.hidden,)) for array in (weight, bias)]
        self._check(self._functions.minilm_set_norm(self._handle, layer, NORMS.index(name), *map(_address, norm)))

    def set_head(self, out: Map, pooler: Map | None) -> None:
        """The map to the scores; with a pooler, of the first token of each sequence, else of every token."""
        size = self.sizes
        arrays = [_exact(out.weights[0], (size.labels, size.hidden)), _exact(out.biases[0], (size.labels,))]
        before: list[Float32s] = []
        if pooler is not None:
            before = [_exact(pooler.weights[0], (size.hidden, size.hidden)), _exact(pooler.biases[0], (size.hidden,))]
        addresses: list[int | None] = [*map(_address, before)] or [None, None]
        self._check(self._functions.minilm_set_head(self._handle, *addresses, *map(_address, arrays)))

    def pooled(
        self,
        token_ids: Int32s,
        segment_ids: Int32s | None,
        cu_seqlens: Int32s,
        pooling: Sequence[str],
        *,
        skipped: int = 0,
    ) -> Float32s:
        """One vector per sequence, `[B, P * E]`: modes of `POOLING` without the first `skipped` rows."""
        modes = np.array([POOLING.index(mode) for mode in pooling], dtype=np.int32)
        out = np.empty((len(cu_seqlens) - 1, len(modes) * self.sizes.hidden), dtype=np.float32)
        self._run(token_ids, segment_ids, cu_seqlens, [out], output=_POOLED, modes=modes, skipped=skipped)
        return out

    def classify(self, token_ids: Int32s, segment_ids: Int32s | None, cu_seqlens: Int32s) -> Float32s:
        """Scores of each sequence, `[B, C]`."""
        out = np.empty((len(cu_seqlens) - 1, self.sizes.labels), dtype=np.float32)
        self._run(token_ids, segment_ids, cu_seqlens, [out], output=_CLASSIFY)
        return out

    def tokens(self, token_ids: Int32s, segment_ids: Int32s | None, cu_seqlens: Int32s) -> Float32s:
        """Scores of each token, `[T, C]`."""
        out = np.empty((len(token_ids), self.sizes.labels), dtype=np.float32)
        self._run(token_ids, segment_ids, cu_seqlens, [out], output=_TOKENS)
        return out

    def relations(
        self, token_ids: Int32s, segment_ids: Int32s | None, cu_seqlens: Int32s, *, layer: int
    ) -> tuple[Float32s, Float32s, Float32s]:
        """Queries, keys and values of a layer (from 0), `[T, E]` each; nothing after them is computed."""
        query, key, value = (np.empty((len(token_ids), self.sizes.hidden), dtype=np.float32) for _ in range(3))
        self._run(token_ids, segment_ids, cu_seqlens, [query, key, value], output=_RELATIONS, layer=layer)
        return query, key, value

    def _run(
        self,
        token_ids: Int32s,
        segment_ids: Int32s | None,
        cu_seqlens: Int32s,
        outs: Sequence[Float32s],
        *,
        output: int,
        modes: Int32s | None = None,
        skipped: int = 0,
        layer: int = 0,
    ) -> None:
        if self._process != os.getpid() and self.threads > 1:
            raise UsageError(
                "the model was loaded before this process was forked, and its threads do not survive a fork: load the "
                "model in the child, start the child with 'spawn', or load it with threads=1"
            )
        if len(cu_seqlens) < 2 or int(cu_seqlens[-1]) != len(token_ids):
            raise UsageError(f"cu_seqlens ends at {cu_seqlens[-1:]}; expected the number of tokens, {len(token_ids)}")
        if segment_ids is not None and len(segment_ids) != len(token_ids):
            raise UsageError(
                f"there are {len(segment_ids)} segment ids of {len(token_ids)} tokens; expected one of each"
            )
        ids, ends = np.ascontiguousarray(token_ids, np.int32), np.ascontiguousarray(cu_seqlens, np.int32)
        segments = None if segment_ids is None else np.ascontiguousarray(segment_ids, np.int32)
        addresses = [_address(out) for out in outs] + [None] * (3 - len(outs))
        self._check(
            self._functions.minilm_run(
                self._handle,
                _address(ids),
                None if segments is None else _address(segments),
                _address(ends),
                len(ends) - 1,
                output,
                None if modes is None else _address(modes),
                0 if modes is None else len(modes),
                skipped,
                layer,
                *addresses,
            )
        )

    def _check(self, failed: int) -> None:
        if failed:
            raise Refused(f"the native engine: {error_of(self._functions)}")


def _exact(array: np.ndarray, shape: tuple[int, ...]) -> Float32s:
    """The array as aligned, contiguous float32, without a copy where it is; raises UsageError for another shape."""
    if array.shape != shape:
        raise UsageError(f"an array has the shape {array.shape}; expected {shape}")
    exact: Float32s = np.require(array, np.float32, ["C", "ALIGNED"])
    return exact


def _address(array: np.ndarray) -> int:
    address: int = array.ctypes.data
    return address


def _functions() -> ctypes.CDLL:
    """The library with the types of its functions; raises SystemProblem without one."""
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    return declared(
        "the native engine",
        results={"minilm_kernels_selected": text, "minilm_free": None, "minilm_peak": ctypes.c_double},
        arguments={
            "minilm_kernels_selected": [text],
            "minilm_kernels_has_bf16": [text],
            "minilm_create": [pointer, text, number, number, pointer],
            "minilm_free": [pointer],
            "minilm_tile_tokens": [pointer],
            "minilm_set_embeddings": [pointer] * 6,
            "minilm_set_linear": [pointer, number, number, number, pointer, pointer, pointer],
            "minilm_set_norm": [pointer, number, number, pointer, pointer],
            "minilm_set_head": [pointer] * 5,
            "minilm_run": [pointer] * 4 + [number] * 2 + [pointer] + [number] * 3 + [pointer] * 3,
            "minilm_peak": [text, number, number],
            "minilm_test_int8_product": [text, pointer, number, pointer, number, number, pointer],
            "minilm_test_rowwise": [text, number, number, pointer, number, number, pointer, pointer],
        },
    )
