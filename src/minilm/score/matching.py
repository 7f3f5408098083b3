"""Match references and predictions by id, and say what has no partner.

In: the ids of both sides. Out: the ids without a partner, and sentences about them with counts and the first id.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from minilm.errors import DataError


@dataclass(frozen=True, kw_only=True)
class IdMatch:
    """Ids without a partner: `missing` have a reference only, `extra` none; `total` counts the references."""

    what: str
    total: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def missing_finding(self) -> str:
        """Say in one sentence which references have no partner; "" when all have one."""
        if not self.missing:
            return ""
        return (
            f"{len(self.missing):,} of {self.total:,} references have no {self.what} and count as wrong "
            f"(first: {self.missing[0]!r})"
        )

    def extra_finding(self) -> str:
        """Say in one sentence which ids have no reference; "" when all have one."""
        if not self.extra:
            return ""
        some = f"1 {self.what} has" if len(self.extra) == 1 else f"{len(self.extra):,} {self.what}s have"
        return f"{some} no reference and no effect (first: {self.extra[0]!r})"


def match_ids(references: Collection[str], others: Collection[str], *, what: str = "prediction") -> IdMatch:
    """Compare the ids of two sides.

    Args:
        references: ids, all different, not empty.
        others: ids of what is scored, all different, not empty.
        what: what the others have, for the sentences.

    Returns:
        what has no partner, each in the order of its side.

    Raises:
        DataError: no id is on both sides.
    """
    wanted, given = frozenset(references), frozenset(others)
    if not wanted & given:
        raise DataError(
            f"no id with a {what} is among the references: ids with a {what} look like {next(iter(others))!r}, "
            f"those of the references like {next(iter(references))!r}; check that the files belong together"
        )
    return IdMatch(
        what=what,
        total=len(references),
        missing=tuple(one for one in references if one not in given),
        extra=tuple(one for one in others if one not in wanted),
    )
