"""The engine of a reranker whose score comes from pooled rows instead of a head.

In: the engine of its encoder, its pooling and the modules after it. Out: the same engine with a classification head.
"""

from __future__ import annotations

from collections.abc import Sequence

from minilm.infer.engines.protocol import Engine, Float32s
from minilm.infer.vectors import after_pooling
from minilm.model.embedding import EmbeddingSettings, PoolingMode
from minilm.model.metadata import HeadName
from minilm.model.packed_ids import PackedIds


class PooledScorer:
    """Computes one score for each sequence."""

    head: HeadName | None = "classification"

    def __init__(self, engine: Engine, settings: EmbeddingSettings) -> None:
        """Add pooling and modules, the last of which has width 1, to the engine of an encoder."""
        self._engine, self._settings = engine, settings
        self.tokens_per_batch = engine.tokens_per_batch

    def over(self, engine: Engine) -> PooledScorer:
        """The same with another engine of the encoder."""
        return PooledScorer(engine, self._settings)

    def pooled(self, batch: PackedIds, pooling: Sequence[PoolingMode], *, skipped: int = 0) -> Float32s:
        """One vector per sequence, `[B, P * E]`."""
        return self._engine.pooled(batch, pooling, skipped=skipped)

    def classify(self, batch: PackedIds) -> Float32s:
        """The score of each sequence, `[B, 1]`."""
        return after_pooling(self._engine.pooled(batch, self._settings.pooling), self._settings)

    def tokens(self, batch: PackedIds) -> Float32s:
        """Scores of the encoder's head for every token, which it does not have; raises what its engine raises."""
        return self._engine.tokens(batch)
