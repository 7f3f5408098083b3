"""What had to be cut or left out, counted over all parts of an input and told once each.

In: findings, part by part, with where they are. Out: one warning per kind, with how many of how many and the first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class Tally:
    """Counts; empty until something is added."""

    def __init__(self) -> None:
        """Start with nothing found."""
        self._found: dict[str, tuple[int, int, str]] = {}

    def add(self, what: str, places: Sequence[str], *, of: int) -> None:
        """Add the findings of one more part: `places`, one each, among `of` items."""
        number, items, first = self._found.get(what, (0, 0, ""))
        self._found[what] = number + len(places), items + of, first or next(iter(places), "")

    def add_cut(self, cut: Sequence[int], places: Sequence[str], *, max_tokens: int) -> None:
        """Add the texts of one more part that were cut: their numbers among `places`."""
        what = f"texts were longer than {max_tokens} tokens and were cut"
        self.add(what, [places[number] for number in cut], of=len(places))

    def report(self, reported: set[str] | None = None) -> None:
        """Warn about all that was found; of the kinds in `reported` nothing is said again, the others join them."""
        for what, (number, items, first) in self._found.items():
            if number and (reported is None or what not in reported):
                logger.warning("%d of %d %s (first: %s)", number, items, what, first)
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
