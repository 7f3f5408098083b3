"""Vectors of texts by a model that is not a loaded folder: a teacher, or the model that a run starts from.

In: an encoder or an engine, a tokenizer, how a text becomes a vector. Out: one vector per text.

B texts, P number of pooling modes, E hidden width, W width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from minilm.infer.batching import TEXTS_PER_CHUNK, chunked
from minilm.infer.engines.protocol import Float32s, PoolingEngine
from minilm.infer.vectors import VectorOptions, cut_part
from minilm.model.embedding import EmbeddingSettings, PoolingMode
from minilm.model.encoder import Encoder
from minilm.model.packed_ids import PackedIds
from minilm.model.packing import Packed
from minilm.model.pooling import pool_rows
from minilm.tally import reporting_tally
from minilm.text.tokenizer import Tokenizer


class EncoderEngine:
    """Pools the rows of an encoder in evaluation mode, on its device; its weights stay as they are."""

    def __init__(self, encoder: Encoder, *, tokens_per_batch: int) -> None:
        """Run `encoder` in batches of at most `tokens_per_batch` tokens."""
        self.tokens_per_batch = tokens_per_batch
        self._encoder = encoder.eval()

    @torch.no_grad()
    def pooled(self, batch: PackedIds, pooling: Sequence[PoolingMode], *, skipped: int = 0) -> Float32s:
        """One vector per sequence, `[B, P * E]`."""
        packed = Packed.from_ids(batch).to(self._encoder.embeddings.word.weight.device)
        rows_TE = self._encoder(packed)
        vectors: Float32s = pool_rows(rows_TE.float(), packed, pooling, skipped=skipped).cpu().numpy()
        return vectors


class VectorEncoder:
    """Texts to vectors, with the settings that are given instead of those of a folder."""

    def __init__(
        self,
        folder: Path,
        engine: PoolingEngine,
        tokenizer: Tokenizer,
        *,
        embedding: EmbeddingSettings,
        hidden_size: int,
    ) -> None:
        """Store the parts; `folder` is for messages, `hidden_size` is E."""
        self.folder, self.engine, self.embedding = folder, engine, embedding
        self.embedding_tokenizer = tokenizer.lowercased() if embedding.lowercase else tokenizer
        self._width = embedding.width(hidden_size)
        self._reported: set[str] = set()

    def encode(self, texts: Sequence[str], locations: Sequence[str], *, prompt: str) -> Float32s:
        """One vector per text, `[B, W]`; raises DataError if a value is not finite, with the location of its text."""
        options = VectorOptions(prompt=prompt, dimensions=self._width, renormalize=False, precision="fp32")
        found = [np.empty((0, self._width), dtype=np.float32)]
        with reporting_tally(self._reported) as tally:
            for chunk in chunked(zip(texts, locations, strict=True), TEXTS_PER_CHUNK):
                whole, places = [text for text, _ in chunk], [place for _, place in chunk]
                found.append(cut_part(self, whole, options=options, locations=places, tally=tally))
                self.after_chunk(len(chunk))
        return np.concatenate(found)

    def after_chunk(self, count: int) -> None:
        """Called after each `count` texts; does nothing."""


@dataclass(frozen=True, kw_only=True)
class VectorBase:
    """The model that a run starts from, as it makes vectors before the run.

    Attributes:
        folder: where it is, for messages.
        embedding: how a text becomes a vector.
        tokenizer: of the model.
    """

    folder: Path
    embedding: EmbeddingSettings
    tokenizer: Tokenizer

    def with_encoder(self, encoder: Encoder, *, token_budget: int) -> VectorEncoder:
        """The model, whose weights are in memory."""
        engine, width = EncoderEngine(encoder, tokens_per_batch=token_budget), encoder.config.hidden_size
        return VectorEncoder(self.folder, engine, self.tokenizer, embedding=self.embedding, hidden_size=width)
