"""Texts to vectors: prompt, tokens, pooling by the engine, then the modules after pooling, in numpy.

In: a loaded model and the texts of one part of an input. Out: one vector per text, in order.

B sequences, E width of a vector, D its dimensions after the cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from minilm.errors import DataError, UsageError
from minilm.infer.batching import in_order
from minilm.infer.engines.protocol import Float32s, PoolingEngine
from minilm.infer.vector_precision import STORED_TYPES, StoredVectors, is_outside, quantized
from minilm.model.activations import Activation
from minilm.model.embedding import EmbeddingSettings
from minilm.model.packed_ids import PackedIds
from minilm.model.precision import VectorPrecision
from minilm.model.vector_modules import Dense, LayerNorm, Normalize
from minilm.tally import Tally
from minilm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel

_LEAST_NORM = 1e-12  # a zero vector stays zero, as with torch.nn.functional.normalize
_NORM_EPS = 1e-5  # of torch.nn.LayerNorm
_OUTSIDE = "vectors had a value outside the ranges of int8, which became the end of its range"


class TextEncoder(Protocol):
    """What makes vectors of texts: a `LoadedModel`, or a teacher of another family."""

    @property
    def folder(self) -> Path:
        """Where it was loaded from, for messages."""

    @property
    def engine(self) -> PoolingEngine:
        """What runs it."""

    @property
    def embedding(self) -> EmbeddingSettings:
        """How a text becomes a vector."""

    @property
    def embedding_tokenizer(self) -> Tokenizer:
        """Its tokenizer; it lowercases if the settings say so."""


@dataclass(frozen=True, kw_only=True)
class VectorOptions:
    """What the caller chooses about vectors; checked against the model by `vector_options`.

    Attributes:
        prompt: is put before each text.
        dimensions: D, the number of values that are kept.
        renormalize: scale what is kept to length 1.
        precision: of the result.
    """

    prompt: str
    dimensions: int
    renormalize: bool
    precision: VectorPrecision

    def cut(self, vectors_BE: Float32s) -> Float32s:
        """The first D values of each vector, `[B, D]`; of length 1 again if they were."""
        kept_BD = vectors_BE[:, : self.dimensions]
        return normalized(kept_BD) if self.renormalize else kept_BD


def vector_options(
    model: LoadedModel,
    *,
    prompt: str | None = None,
    role: str | None,
    dimensions: int | None,
    precision: VectorPrecision = "fp32",
) -> VectorOptions:
    """The options of a call, for this model.

    Raises:
        UsageError: there is no such role or precision, both prompt and role are given, or the vectors have fewer
            dimensions.
    """
    if precision not in STORED_TYPES:
        raise UsageError(f"vectors is {precision!r:.60}; expected {', '.join(map(repr, STORED_TYPES))}")
    width = model.embedding.width(model.config.hidden_size)
    if dimensions is not None and not (type(dimensions) is int and 1 <= dimensions <= width):
        raise UsageError(f"dimensions is {dimensions!r:.60}; expected 1 to {width}, which this model's vectors have")
    return VectorOptions(
        prompt=model.embedding.prompt_of(prompt=prompt, role=role),
        dimensions=width if dimensions is None else dimensions,
        renormalize=dimensions is not None and any(isinstance(one, Normalize) for one in model.embedding.modules[-1:]),
        precision=precision,
    )


def embed_part(
    model: TextEncoder, texts: Sequence[str], *, prompt: str, locations: Sequence[str], tally: Tally
) -> Float32s:
    """The vector of each text, `[B, E]`; `tally` counts those that were truncated, with their `locations`."""
    settings, tokenizer = model.embedding, model.embedding_tokenizer
    limit = settings.max_tokens
    truncated: list[int] = []
    whole = [prompt + text for text in texts] if prompt else texts
    token_ids = tokenizer.encode(whole, max_length=limit, truncated=truncated)
    tally.add_truncated(truncated, locations, max_tokens=limit)
    skipped = 0
    if prompt and not settings.include_prompt:  # its [CLS] is not pooled either
        skipped = len(tokenizer.encode([prompt], max_length=limit, truncated=[])[0]) - 1

    def embed(batch: PackedIds) -> Float32s:
        return after_pooling(model.engine.pooled(batch, settings.pooling, skipped=skipped), settings)

    return np.stack(in_order(token_ids, None, embed, tokens_per_batch=model.engine.tokens_per_batch))


def stored_part(
    model: LoadedModel,
    texts: Sequence[str],
    *,
    options: VectorOptions,
    ranges_2D: Float32s | None,
    locations: Sequence[str],
    tally: Tally,
) -> StoredVectors:
    """The vector of each text after the cut and in the precision of the options, `[B, ...]`.

    `tally` counts truncated texts, and the vectors that have a value outside the ranges of int8, `ranges_2D`.

    Raises:
        DataError: the model gives a value that is not finite.
    """
    vectors_BD = cut_part(model, texts, options=options, locations=locations, tally=tally)
    if ranges_2D is not None:
        outside = np.flatnonzero(is_outside(vectors_BD, ranges_2D).any(1))
        tally.add(_OUTSIDE, [locations[number] for number in outside.tolist()], of=len(locations))
    return quantized(vectors_BD, options.precision, ranges_2D)


def cut_part(
    model: TextEncoder, texts: Sequence[str], *, options: VectorOptions, locations: Sequence[str], tally: Tally
) -> Float32s:
    """The vector of each text after the cut, `[B, D]`; `tally` and errors as for `stored_part`."""
    vectors_BD = options.cut(embed_part(model, texts, prompt=options.prompt, locations=locations, tally=tally))
    bad = np.flatnonzero(~np.isfinite(vectors_BD).all(1))
    if len(bad):
        raise DataError(
            f"{locations[bad[0]]}: its vector has a value that is not finite; the weights of {model.folder} are "
            "damaged, or too large for this precision"
        )
    return vectors_BD


def after_pooling(vectors_BE: Float32s, settings: EmbeddingSettings) -> Float32s:
    """The vectors after all modules, truncated where the settings say."""
    for module in settings.modules:
        if isinstance(module, Dense):
            vectors_BE = _dense(vectors_BE, module)
        elif isinstance(module, LayerNorm):
            vectors_BE = _layer_norm(vectors_BE, module)
        else:
            vectors_BE = normalized(vectors_BE)
    return vectors_BE[:, : settings.truncate_dim]


def normalized(vectors_BE: Float32s) -> Float32s:
    """The vectors scaled to length 1."""
    norms = np.linalg.norm(vectors_BE, axis=1, keepdims=True)
    scaled: Float32s = vectors_BE / np.maximum(norms, _LEAST_NORM)
    return scaled


def _dense(vectors_BE: Float32s, module: Dense) -> Float32s:
    mapped: Float32s = vectors_BE @ module.weight.T
    if module.bias is not None:
        mapped += module.bias
    mapped = ACTIVATIONS[module.activation](mapped)
    if module.residual is None:
        return mapped
    added: Float32s = mapped + (vectors_BE if isinstance(module.residual, str) else vectors_BE @ module.residual.T)
    return added


def _layer_norm(vectors_BE: Float32s, module: LayerNorm) -> Float32s:
    centered = vectors_BE - vectors_BE.mean(1, keepdims=True)
    variance: Float32s = np.square(centered).mean(1, keepdims=True)
    shifted: Float32s = centered / np.sqrt(variance + np.float32(_NORM_EPS)) * module.weight + module.bias
    return shifted


def _sigmoid(values: Float32s) -> Float32s:
    found: Float32s = np.exp(-np.logaddexp(0, -values))  # never overflows, and is exact where it is close to 0
    return found


def _gelu(values: Float32s) -> Float32s:
    erf = np.vectorize(math.erf, otypes=[np.float32])
    found: Float32s = values * (1 + erf(values / math.sqrt(2))) / 2
    return found


ACTIVATIONS: Mapping[Activation, Callable[[Float32s], Float32s]] = {
    "Identity": lambda values: values,
    "Tanh": np.tanh,
    "ReLU": lambda values: np.maximum(values, 0),
    "Sigmoid": _sigmoid,
    "SiLU": lambda values: values * _sigmoid(values),
    "GELU": _gelu,
}
