"""Texts to vectors: prompt, tokens, pooling by the engine, then the modules after pooling, in numpy.

In: a loaded model and the texts of one part of an input. Out: one vector per text, in order.

B sequences, E width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from minilm.infer.batching import in_order
from minilm.infer.engines.protocol import Float32s
from minilm.model.activations import Activation
from minilm.model.embedding import EmbeddingSettings
from minilm.model.packed_ids import PackedIds
from minilm.model.vector_modules import Dense, LayerNorm
from minilm.tally import Tally

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel

_LEAST_NORM = 1e-12  # a zero vector stays zero, as with torch.nn.functional.normalize
_NORM_EPS = 1e-5  # of torch.nn.LayerNorm


def embed_part(
    model: LoadedModel, texts: Sequence[str], *, prompt: str, locations: Sequence[str], tally: Tally
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
