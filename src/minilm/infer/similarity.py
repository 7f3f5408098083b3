"""Similarities of vectors, with the numbers of sentence-transformers.

In: two arrays of vectors, and the name of a similarity. Out: the similarity of each pair, float32; a larger one is
closer.

A vectors of the first array, B of the second, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilm.errors import UsageError
from minilm.infer.vector_precision import Float32s
from minilm.infer.vectors import normalized

_DEFAULT = "cosine"  # of a folder that names none


def similarities(first: ArrayLike, second: ArrayLike, kind: str | None) -> NDArray[np.float32]:
    """The similarity of each vector of `first` with each of `second`, `[A, B]`; one vector is an array of one.

    Raises:
        UsageError: these are not float vectors of one width, or the similarity is unknown.
    """
    kind = known_similarity(kind)
    first_AD, second_BD = _vectors(first), _vectors(second)
    if first_AD.shape[1] != second_BD.shape[1]:
        raise UsageError(
            f"found vectors of {first_AD.shape[1]} and of {second_BD.shape[1]} dimensions; expected equal numbers"
        )
    return SIMILARITIES[kind](first_AD, second_BD)


def pairwise_similarities(first_BD: Float32s, second_BD: Float32s, kind: str | None) -> Float32s:
    """The similarity of each vector of `first_BD` with the one in the same place, `[B]`; raises as `similarities`."""
    pairs = zip(first_BD, second_BD, strict=True)
    return np.array([similarities(first, second, kind)[0, 0] for first, second in pairs], dtype=np.float32)


def known_similarity(kind: str | None) -> str:
    """The similarity that a folder states, or cosine; raises UsageError for one that is unknown."""
    kind = _DEFAULT if kind is None else kind
    if kind not in SIMILARITIES:
        raise UsageError(f"the model's similarity is {kind!r:.60}; expected {', '.join(map(repr, SIMILARITIES))}")
    return kind


def _vectors(given: ArrayLike) -> Float32s:
    array = np.asarray(given)
    if array.ndim not in (1, 2) or array.dtype.kind != "f":
        raise UsageError(
            f"similarity expects float vectors, [D] or [N, D]; found {array.dtype} of shape {array.shape}; int8 and "
            "binary vectors have no similarity by themselves"
        )
    return np.atleast_2d(array.astype(np.float32, copy=False))


def _dot(first_AD: Float32s, second_BD: Float32s) -> Float32s:
    found: Float32s = first_AD @ second_BD.T
    return found


def _cosine(first_AD: Float32s, second_BD: Float32s) -> Float32s:
    return _dot(normalized(first_AD), normalized(second_BD))


def _euclidean(first_AD: Float32s, second_BD: Float32s) -> Float32s:
    rows = [-np.sqrt(np.square(second_BD - row_D).sum(1)) for row_D in first_AD]
    return _stacked(rows, len(second_BD))


def _manhattan(first_AD: Float32s, second_BD: Float32s) -> Float32s:
    rows = [-np.abs(second_BD - row_D).sum(1) for row_D in first_AD]
    return _stacked(rows, len(second_BD))


def _stacked(rows: list[Float32s], count: int) -> Float32s:
    return np.stack(rows) if rows else np.empty((0, count), dtype=np.float32)


SIMILARITIES: Mapping[str, Callable[[Float32s, Float32s], Float32s]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
"""The names that a folder may state."""
