"""Counts of what was truncated or skipped, over all parts of an input, reported once each.

In: findings, part by part, with their locations. Out: one warning per kind, with the count, the total and the first
location.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

_KEPT_LOCATIONS = 5


@dataclass(kw_only=True)
class Found:
    """How often one thing was found, among `of` items (0: not known), and the first five locations."""

    count: int = 0
    of: int = 0
    first: list[str] = field(default_factory=list)


class Tally:
    """Counts; empty until something is added."""

    def __init__(self) -> None:
        """Start with nothing found."""
        self._found: dict[str, Found] = {}

    def __getitem__(self, what: str) -> Found:
        """What was found of one kind."""
        return self._found.get(what, Found())

    def add(self, what: str, locations: Sequence[str], *, of: int = 0, count: int | None = None) -> None:
        """Add the findings of one more part: `count` (else one per location) among `of` items."""
        found = self._found.setdefault(what, Found())
        found.count += len(locations) if count is None else count
        found.of += of
        found.first += locations[: _KEPT_LOCATIONS - len(found.first)]

    def add_cut(self, cut: Sequence[int], locations: Sequence[str], *, max_tokens: int) -> None:
        """Add the texts of one more part that were cut: their numbers among `locations`."""
        what = f"texts were longer than {max_tokens} tokens and were truncated"
        self.add(what, [locations[number] for number in cut], of=len(locations))

    def sentences(self) -> dict[str, str]:
        """One sentence for each kind that was found."""
        return {
            what: f"{found.count}{f' of {found.of}' if found.of else ''} {what}"
            f"{f' (first: {found.first[0]})' if found.first else ''}"
            for what, found in self._found.items()
            if found.count
        }

    def report(self, reported: set[str] | None = None) -> None:
        """Warn about all that was found; of the kinds in `reported` nothing is said again, the others join them."""
        for what, sentence in self.sentences().items():
            if reported is None or what not in reported:
                logger.warning("%s", sentence)
                if reported is not None:
                    reported.add(what)


@contextmanager
def reporting_tally(reported: set[str] | None = None) -> Iterator[Tally]:
    """A tally that is reported when the block ends, also before all parts have come; see `Tally.report`."""
    tally = Tally()
    try:
        yield tally
    finally:
        tally.report(reported)
