"""What every teacher is: the relations of its layers over packed tokens, computed in one of three ways.

In: a `Packed` batch. Out: `Relations`, or hidden rows, without gradient.

T packed tokens, F hidden width.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from minilm.environment import versions_of
from minilm.errors import UsageError
from minilm.model.encoder import Relations
from minilm.model.packing import Packed
from minilm.recipe.student_shape import TeacherSizes

logger = logging.getLogger(__name__)

Version = Literal["v1", "v2"]
"""Which relations a loss compares: v1 attention and values, v2 queries, keys and values."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a loss needs of a teacher.

    Attributes:
        layers: of the teacher, from 1; several are computed in one pass.
        attention: query and key that give the model's own attention, whatever is in it.
        hidden: the rows after the layers, not query, key and value.
        output: with `hidden`, those of the last layer are what the model gives in the end, after its last norm.
    """

    layers: tuple[int, ...]
    attention: bool = False
    hidden: bool = False
    output: bool = False

    @property
    def last(self) -> int:
        """Nothing after this layer is needed."""
        return max(self.layers)


@dataclass(frozen=True, kw_only=True)
class ComputedBy:
    """What computes a teacher, and its versions: with others the last bits may differ."""

    engine: str
    versions: str


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """How many times as many tokens (some are padding) and batches a teacher computes as a packed one."""

    tokens: float
    batches: float


class Teacher(ABC):
    """A frozen encoder that computes `Relations` of the layer `sizes.layer`, or of several."""

    own_attention = False
    """Whether its queries and keys stand for attention that the model computes itself; see `PaddedTeacher`."""

    def __init__(self, sizes: TeacherSizes) -> None:
        """Give it the sizes as computed."""
        self.sizes = sizes

    @property
    @abstractmethod
    def engine(self) -> str:
        """What computes it, as a resumed run compares it."""

    @property
    def versions(self) -> str:
        """Of what computes it."""
        return versions_of("minilm", "torch", "transformers")

    @property
    def computed_by(self) -> ComputedBy:
        """Its engine and the versions of that."""
        return ComputedBy(engine=self.engine, versions=self.versions)

    @property
    def layer(self) -> int:
        """The distilled layer, 1-based."""
        return self.sizes.layer

    @abstractmethod
    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the layer, after any rotary embedding, each `[T, H, D]`."""

    def relations_of(self, packed: Packed) -> Mapping[int, Relations]:
        """The same of each of its layers, from 1."""
        return {self.layer: self.relations(packed)}

    def hidden_of(self, packed: Packed) -> Mapping[int, Tensor]:
        """Rows after each of its layers, from 1, `[T, F]`; raises UsageError if it was not loaded for them."""
        raise UsageError(f"the teacher ({self.engine}) was not loaded for hidden rows; load it with wanted.hidden")

    def document_relations(self, packed: Packed, documents: np.ndarray) -> Relations:
        """The same for documents of a corpus, which `packed` holds; their numbers do not matter here."""
        return self.relations(packed)

    def overhead(self, microbatches: Sequence[np.ndarray]) -> Overhead | None:
        """What it computes beyond a packed teacher for microbatches, given as lengths; None if it runs packed."""
        return None


def say_how_it_runs(teacher: Teacher, folder: Path, microbatches: Sequence[np.ndarray], *, of: str) -> None:
    """Log what computes it and, unless it runs packed, what that costs in these microbatches (lengths), part `of`."""
    logger.info("teacher %s: computed by %s", folder, teacher.engine)
    more = teacher.overhead(microbatches)
    if more is not None:
        logger.warning(
            "teacher %s: it does not run packed, which is slower: in %s it computes %.2f times as many tokens as there "
            "are, in %.1f times as many batches",
            folder,
            of,
            more.tokens,
            more.batches,
        )
