"""How a text becomes a vector: prompt, pooling over tokens, the modules after it.

In: the values of a model folder (`embedding_files.py`). Out: `EmbeddingSettings`, which engines and `infer` compute.

E hidden width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from minilm.errors import DataError, UsageError
from minilm.model.vector_modules import Dense, LayerNorm, VectorModule, checksum_of

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

_STANDARD_ROLES: Mapping[str, str] = {"query": "", "document": ""}  # sentence-transformers always has these two


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSettings:
    """The steps from a text to its vector.

    Attributes:
        pooling: over tokens; the vectors of several modes are concatenated in this order.
        modules: what follows pooling, in order.
        max_tokens: of a text, prompt and special tokens included.
        lowercase: texts are lowercased, whatever the tokenizer does.
        include_prompt: the tokens of the prompt are pooled, too.
        prompts: text before each text, by role.
        default_prompt_name: the role of texts without one.
        truncate_dim: the number of values that are kept of a vector.
        similarity: name of the similarity that the vectors were trained for; affects no vector.
    """

    pooling: tuple[PoolingMode, ...] = ("mean",)
    modules: tuple[VectorModule, ...] = ()
    max_tokens: int = 512
    lowercase: bool = False
    include_prompt: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    similarity: str | None = None

    def width(self, hidden_size: int) -> int:
        """Width of a vector, from the hidden width E.

        Raises:
            DataError: a module does not fit the width before it.
        """
        width = hidden_size * len(self.pooling)
        for module in self.modules:
            if not isinstance(module, Dense | LayerNorm):
                continue
            expected = module.weight.shape[-1]
            if width != expected:
                raise DataError(
                    f"{module.where or 'this model'}: {type(module).__name__} expects vectors of width {expected}, but "
                    f"those before it have width {width}; the folder combines files of two models"
                )
            width = len(module.weight)
        return width if self.truncate_dim is None else min(width, self.truncate_dim)

    def checksum(self) -> str:
        """Hex SHA-256 of what happens to a text before and after the encoder, the prompt aside."""
        plain = replace(self, modules=(), prompts={}, default_prompt_name=None, similarity=None)
        digest = hashlib.sha256(repr(plain).encode())
        for module in self.modules:
            digest.update(checksum_of(module).encode())
        return digest.hexdigest()

    def identity(self) -> str:
        """Hex SHA-256 of all settings that have an effect."""
        prompts = sorted((name, text) for name, text in self.prompts.items() if text)
        named = prompts, self.default_prompt_name, self.similarity or "cosine"
        return hashlib.sha256(repr((self.checksum(), *named)).encode()).hexdigest()

    def prompt_of(self, *, prompt: str | None, role: str | None) -> str:
        """The text to put before each text: `prompt`, else that of `role`, else the default one, else none.

        The roles `query` and `document` always exist; without a prompt of their own they have none.

        Raises:
            UsageError: both are given, the prompt is not a text, or there is no such role.
        """
        if prompt is not None and role is not None:
            raise UsageError("found both prompt and role; expected one of the two")
        if prompt is not None:
            if not isinstance(prompt, str):
                raise UsageError(f"prompt: found {type(prompt).__name__}, expected a text")
            return prompt
        known = {**_STANDARD_ROLES, **self.prompts}
        role = self.default_prompt_name if role is None else role
        if role is None:
            return ""
        if role not in known:
            raise UsageError(f"role is {role!r:.80}; this model has {', '.join(map(repr, known))}; or pass prompt=TEXT")
        return known[role]
