"""Which candidates of a query become its negatives: the selection of sentence-transformers' `mine_hard_negatives`.

In: the scores of K candidates and of the positives of one query. Out: the chosen candidates, best first.

Positives are never chosen. What lies too close to the positive with the lowest score, or outside the limits, is left
out; of the rest, ranks `range_min` to `range_max` remain, and of those the best or a random sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from minilm.decode.settings import Flag
from minilm.errors import SettingsError
from minilm.files.checked import Count, PositiveInt, Settings
from minilm.infer.vector_precision import Float32s

_SPARE = 10  # candidates for each negative where limits may leave some out


@dataclass(frozen=True, kw_only=True)
class MiningSettings(Settings):
    """How negatives are chosen; names and meanings are those of sentence-transformers.

    Attributes:
        negatives: of a query, at most.
        range_min: candidates that are skipped, after those that are left out.
        range_max: the last rank that counts; None: as many as are needed, and more if limits may leave some out.
        absolute_margin: a negative's score is lower than that of the positive by at least so much.
        relative_margin: the same, as a share of the positive's score.
        max_score: of a negative.
        min_score: of a negative.
        sampling: the best that remain, or a random choice of them.
        seed: of the random choice.
    """

    negatives: Annotated[PositiveInt, Flag("Negatives of a query, at most.", "N")] = 3
    range_min: Annotated[Count, Flag("Skip so many of the closest candidates.", "RANK")] = 0
    range_max: Annotated[PositiveInt | None, Flag("Last rank that counts.", "RANK", "what is needed")] = None
    absolute_margin: Annotated[
        float | None, Flag("A negative's score is lower than the positive's by at least this.", "X")
    ] = None
    relative_margin: Annotated[float | None, Flag("The same, as a share of the positive's score.", "SHARE")] = None
    max_score: Annotated[float | None, Flag("Highest score of a negative.", "X")] = None
    min_score: Annotated[float | None, Flag("Lowest score of a negative.", "X")] = None
    sampling: Annotated[Literal["top", "random"], Flag("The closest that remain, or a random choice of them.")] = "top"
    seed: Annotated[Count, Flag("Seed of the random choice.", "N")] = 0

    def __post_init__(self) -> None:
        """Raise SettingsError for ranks between which there are too few candidates."""
        super().__post_init__()
        if self.range_max is not None and self.range_max - self.range_min < self.negatives:
            raise SettingsError(
                f"range_min {self.range_min} to range_max {self.range_max} leaves "
                f"{max(0, self.range_max - self.range_min)} candidates, expected at least negatives, {self.negatives}"
            )

    @property
    def has_limits(self) -> bool:
        """Whether candidates may be left out for their scores."""
        return any(one is not None for one in (self.absolute_margin, self.relative_margin, self.max_score))

    def last_rank(self, *, max_positives: int, may_change: bool) -> int:
        """`range_max`, or its default.

        Args:
            max_positives: the most positives that a query has.
            may_change: a reranker replaces the scores.
        """
        if self.range_max is not None:
            return self.range_max
        spare = self.has_limits or (may_change and self.min_score is not None)
        return self.range_min + self.negatives * (_SPARE if spare else 1) + max_positives


def choose(
    scores_K: Float32s,
    is_positive_K: NDArray[np.bool_],
    positive_scores: Float32s,
    settings: MiningSettings,
    *,
    last_rank: int,
    generator: np.random.Generator,
) -> list[int]:
    """Numbers of the chosen candidates, best first; candidates with equal scores keep their order.

    Args:
        scores_K: of the candidates; -inf for none.
        is_positive_K: which candidates are positives of the query.
        positive_scores: of all positives of the query, at least one.
        settings: the limits.
        last_rank: see `MiningSettings.last_rank`.
        generator: of the random choice.
    """
    fits_K = np.isfinite(scores_K) & ~is_positive_K
    least = positive_scores.min()
    if settings.absolute_margin is not None:
        fits_K &= scores_K + np.float32(settings.absolute_margin) <= least
    if settings.relative_margin is not None:
        fits_K &= scores_K <= least - np.abs(least) * np.float32(settings.relative_margin)
    if settings.max_score is not None:
        fits_K &= scores_K <= np.float32(settings.max_score)
    if settings.min_score is not None:
        fits_K &= scores_K >= np.float32(settings.min_score)
    order = np.argsort(-scores_K, kind="stable")
    ranked = order[fits_K[order]][settings.range_min : last_rank]
    if settings.sampling == "random" and len(ranked) > settings.negatives:
        ranked = ranked[np.sort(generator.permutation(len(ranked))[: settings.negatives])]
    chosen: list[int] = ranked[: settings.negatives].tolist()
    return chosen
