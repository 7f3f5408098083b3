"""What a task is: sequences to learn from, a loss on a head's scores, numbers on held-out sequences.

In: labelled rows that a task's file has read and tokenized. Out: one protocol that `objective.py` trains and scores.

B sequences, T packed tokens, C labels, N tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minilm.model.heads import HeadName
from minilm.model.packing import Packed

Array = NDArray[np.float32]
NUM_EXAMPLES = 20  # wrong ones that a report shows


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Token ids and segment ids of n sequences, each `[N]` int32."""

    token_ids: Sequence[NDArray[np.int32]]
    segment_ids: Sequence[NDArray[np.int32]]

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a reader of a report wants to see of one held-out set, beside its numbers.

    Attributes:
        tables: title -> rows, such as a confusion matrix.
        curves: title -> name of a line -> its points (x, y).
        examples: wrong ones, each as named texts.
        predictions: one row per held-out example, `id` and `prediction` first, as `minilm score` reads them.
    """

    tables: Mapping[str, Sequence[Mapping[str, object]]]
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
    examples: Sequence[Mapping[str, str]]
    predictions: Sequence[Mapping[str, object]]


class Task(Protocol):
    """What fine-tuning learns; the head's scores are `[B, C]` (classification) or `[T, 2]` (span)."""

    @property
    def head(self) -> HeadName:
        """The head that is put on the encoder."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes in id order; none for regression and spans."""

    @property
    def main_metric(self) -> str:
        """The number that chooses the best checkpoint; higher is better, but for a loss."""

    @property
    def train(self) -> Sequences:
        """What is learned from."""

    @property
    def targets(self) -> NDArray[np.generic]:
        """One row per training sequence, `[n, ...]`."""

    @property
    def dev(self) -> Mapping[str, Sequences]:
        """Held-out sets by name; the first one chooses the best checkpoint."""

    def losses(self, scores: Tensor, packed: Packed, targets: Tensor) -> Tensor:
        """Loss of each sequence, `[B]`, from the head's scores in float32."""

    def outputs(self, scores: Tensor, packed: Packed) -> list[Array]:
        """What scoring needs of each sequence: its logits `[C]`, or start and end scores `[N, 2]`."""

    def metrics(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """Numbers of one held-out set from the outputs of all its sequences, in their order."""

    def analyse(self, dev_set: str, outputs: Sequence[Array]) -> Analysis:
        """What the report shows of one held-out set."""


def numbers_of_sets(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Held-out numbers by set as one row: those of the first set under their own names, of the others `set.name`."""
    return {
        (f"{name}.{key}" if place else key): value
        for place, (name, numbers) in enumerate(found.items())
        for key, value in numbers.items()
    }
