"""Match references and predictions by id, and report unmatched ids.

In: the ids of both sides. Out: the unmatched ids, and messages about them with counts and the first id.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from minilm.errors import DataError


@dataclass(frozen=True, kw_only=True)
class IdMatch:
    """Unmatched ids: `missing` have only a reference, `extra` have no reference; `total` counts the references."""

    what: str
    total: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def missing_finding(self, result: str = "count as wrong") -> str:
        """A message about references without a prediction, and the `result` of that; "" if there are none."""
        if not self.missing:
            return ""
        return (
            f"{len(self.missing):,} of {self.total:,} references have no {self.what} and {result} "
            f"(first: {self.missing[0]!r})"
        )

    def require_all(self) -> None:
        """Raise DataError if a reference has no prediction, for scores in which no prediction counts as wrong."""
        if self.missing:
            raise DataError(
                f"{len(self.missing):,} of {self.total:,} references have no {self.what} (first: {self.missing[0]!r}); "
                f"a correlation needs a {self.what} for each"
            )

    def extra_finding(self) -> str:
        """A message about ids without a reference; "" if there are none."""
        if not self.extra:
            return ""
        some = f"1 {self.what} has" if len(self.extra) == 1 else f"{len(self.extra):,} {self.what}s have"
        return f"{some} no reference and will be ignored (first: {self.extra[0]!r})"


def match_ids(references: Collection[str], others: Collection[str], *, what: str = "prediction") -> IdMatch:
    """Compare the ids of two sides.

    Args:
        references: ids, all different, not empty.
        others: ids of the scored items, all different, not empty.
        what: name of the scored items, for messages.

    Returns:
        the unmatched ids, each in the order of its side.

    Raises:
        DataError: the two sides have no id in common.
    """
    wanted, given = frozenset(references), frozenset(others)
    if not wanted & given:
        raise DataError(
            f"no {what} id matches a reference id: {what} ids look like {next(iter(others))!r}, "
            f"reference ids like {next(iter(references))!r}; check that the files belong together"
        )
    return IdMatch(
        what=what,
        total=len(references),
        missing=tuple(one for one in references if one not in given),
        extra=tuple(one for one in others if one not in wanted),
    )
