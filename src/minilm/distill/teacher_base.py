"""What every teacher is: the relations of one layer over packed tokens, computed in one of three ways.

In: a `Packed` batch. Out: `Relations`, without gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np

from minilm.distill.shapes import TeacherSizes
from minilm.model.encoder import Relations
from minilm.model.packing import Packed

Version = Literal["v1", "v2"]
"""Which relations a loss compares: v1 attention and values, v2 queries, keys and values."""


class Teacher(ABC):
    """A frozen encoder that computes `Relations` of the layer `sizes.layer`."""

    def __init__(self, sizes: TeacherSizes) -> None:
        """Give it the sizes as computed."""
        self.sizes = sizes

    @property
    @abstractmethod
    def engine(self) -> str:
        """What computes it, as a resumed run compares it."""

    @property
    def layer(self) -> int:
        """The distilled layer, 1-based."""
        return self.sizes.layer

    @abstractmethod
    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the layer, after any rotary embedding, each `[T, H, D]`."""

    def share_of_padding(self, microbatches: Sequence[np.ndarray]) -> float:
        """The share of padding in what it computes for these microbatches, given the lengths of their sequences."""
        return 0.0
