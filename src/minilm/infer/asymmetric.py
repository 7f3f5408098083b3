"""A model with one encoder for queries and another for documents.

In: its routes, and the role of the texts. Out: vectors of the encoder of that role, which is loaded when it is first
used: a program that only encodes queries never reads the other one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilm.errors import UsageError
from minilm.infer.api import LoadedModel
from minilm.infer.engine_names import EngineName
from minilm.infer.engines import load_engine
from minilm.infer.similarity import similarities
from minilm.model.metadata import HeadName
from minilm.model.precision import Precision
from minilm.model.routes import ROLES, Role, Routes
from minilm.model.vector_ranges import VECTOR_RANGES
from minilm.text.tokenizer import Tokenizer

_OF_AN_ENCODER = ("engine", "config", "tokenizer", "embedding", "labels", "problem", "activation", "task")


class AsymmetricModel(LoadedModel):
    """A `LoadedModel` whose `encode` takes the encoder of the role, by its `route`.

    Its other attributes (`config`, `tokenizer`, `engine`, ...) are those of the encoder of texts without a role.

    Attributes:
        routes: the encoder of each role, which may not be loaded yet.
    """

    def __init__(
        self, folder: Path, routes: Routes, *, engine: EngineName, precision: Precision, threads: int | None
    ) -> None:
        """Store where the encoders are; see `minilm.load`."""
        if precision == "int8":
            raise UsageError(
                f"{folder} is an asymmetric model, which minilm quantize does not write; expected precision fp32 or "
                "bf16; for int8 load a copy of one of its models that minilm quantize wrote"
            )
        self.folder, self.routes = folder, routes
        self._engine_name, self._precision, self._threads = engine, precision, threads
        self._loaded: dict[Role, LoadedModel] = {}

    def __getattr__(self, name: str) -> object:
        """What only an encoder has, of the one without a role."""
        if name not in _OF_AN_ENCODER:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.route(None), name)

    @property
    def head(self) -> HeadName | None:
        """None: the two encoders give vectors."""
        return None

    def __repr__(self) -> str:
        """What it is and what it does; loads nothing."""
        both = " and ".join(
            f"{role} ({one.config.family}, {one.config.num_layers} layers of width {one.config.hidden_size}, up to "
            f"{one.embedding.max_tokens} tokens)"
            for role, one in self.routes.by_role.items()
        )
        return f"<minilm model {self.folder}: encodes texts as {self.routes.width} numbers, with an encoder for {both}>"

    def route(self, role: str | None) -> LoadedModel:
        """The model that encodes texts of this role; the default one for the name of another prompt, and for None.

        Raises:
            UsageError: there is no role, and the folder states no default.
        """
        chosen = next((one for one in ROLES if one == role), self.routes.default)
        if chosen is None:
            raise UsageError(
                f"{self.folder} has an encoder for queries and another for documents, and no default; expected "
                "role='query' or role='document'"
            )
        if chosen not in self._loaded:
            self._loaded[chosen] = self._load(chosen)
        return self._loaded[chosen]

    def similarity(self, first: ArrayLike, second: ArrayLike) -> NDArray[np.float32]:
        """As for any model; the similarity is that of the whole folder, so no encoder is loaded."""
        return similarities(first, second, self.routes.by_role["query"].embedding.similarity)

    def _load(self, role: Role) -> LoadedModel:
        found = self.routes.by_role[role]
        engine = load_engine(
            self._engine_name, found.encoder, head=None, precision=self._precision, threads=self._threads
        )
        tokenizer = Tokenizer.load(found.encoder)
        tokenizer.require_vocab_size(found.config.vocab_size, where=str(found.encoder))
        model = LoadedModel(
            folder=found.encoder,
            engine=engine,
            config=found.config,
            tokenizer=tokenizer,
            embedding=found.embedding,
            labels=(),
            problem=None,
            task=None,
        )
        model.ranges_file = self.folder / VECTOR_RANGES  # vectors of both are compared
        return model
