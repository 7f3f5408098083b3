"""How hard negatives are chosen: values from flags or from Python. Out: validated `MiningSettings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from minilm.decode.settings import Flag
from minilm.errors import SettingsError
from minilm.files.checked import Count, PositiveInt, Settings

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
    range_min: Annotated[Count, Flag("Number of the closest candidates to skip.", "RANK")] = 0
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
