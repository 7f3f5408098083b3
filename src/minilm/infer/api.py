"""The Python door: `minilm.load("DIR")` and what the loaded model can do.

In: a model folder. Out: numpy arrays and plain Python values.

B sequences, E hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilm.errors import DataError, UsageError
from minilm.infer.batching import run_in_order
from minilm.infer.engine import Engine, Precision, TorchEngine
from minilm.model.checkpoint import read_model
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings, read_embedding
from minilm.model.packing import Packed
from minilm.text.tokenizer import Tokenizer


def load(path: Path | str, *, precision: Precision = "fp32") -> LoadedModel:
    """Load a model folder of Hugging Face, sentence-transformers or minilm.

    Args:
        path: a local folder; nothing is downloaded.
        precision: `bf16` is faster on CPUs and GPUs that compute in it, and rounds to three digits.

    Raises:
        DataError: no such folder, or its files do not fit together.
        UsageError: unknown precision.
    """
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"precision is {precision!r}; expected 'fp32' or 'bf16'")
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such model folder")
    encoder = read_model(folder).encoder
    config = encoder.config
    tokenizer = Tokenizer.load(folder)
    tokenizer.require_vocab_size(config.vocab_size, where=str(folder))
    return LoadedModel(
        engine=TorchEngine(encoder, precision=precision),
        config=config,
        tokenizer=tokenizer,
        embedding=read_embedding(folder, model_max_tokens=config.max_tokens),
    )


class LoadedModel:
    """A model ready to be used. Not to be shared between threads while it computes."""

    def __init__(
        self, *, engine: Engine, config: EncoderConfig, tokenizer: Tokenizer, embedding: EmbeddingSettings
    ) -> None:
        """Join the parts; see `load`."""
        self._engine = engine
        self.config = config
        self.tokenizer = tokenizer
        self.embedding = embedding

    def encode(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """One vector per text, `[number of texts, E]` float32, in the order of `texts`.

        Pooling, scaling and the longest input are those of the model folder. Any iterable is accepted and read
        in windows; an empty one gives `[0, E]`, an empty string the vector of its special tokens.

        Raises:
            UsageError: a single string was given, or an item is not a string.
        """
        if isinstance(texts, str):
            raise UsageError("encode expects a list of texts, not one string; write encode([text])")
        windows = run_in_order(
            _checked(texts),
            self._embed,
            self.tokenizer,
            max_tokens=self.embedding.max_tokens,
        )
        empty = torch.empty(0, self.config.hidden_size)
        vectors: NDArray[np.float32] = torch.cat([empty, *windows]).numpy()
        return vectors

    def _embed(self, packed: Packed) -> Tensor:
        if self.embedding.pooling == "cls":
            vectors_BE = self._engine.first(packed)
        else:
            vectors_BE = mean_rows(self._engine.hidden(packed), packed)
        return torch.nn.functional.normalize(vectors_BE) if self.embedding.normalize else vectors_BE


def mean_rows(hidden_TE: Tensor, packed: Packed) -> Tensor:
    """Mean of each sequence's rows, `[T, E]` -> `[B, E]`."""
    parts = hidden_TE.split([count * length for count, length in packed.runs])
    return torch.cat(
        [rows.view(count, length, -1).mean(1) for (count, length), rows in zip(packed.runs, parts, strict=True)]
    )


def _checked(texts: Iterable[str]) -> Iterable[str]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"text {number} is a {type(text).__name__}; encode expects strings")
        yield text
