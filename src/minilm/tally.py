"""Counts of what was truncated or skipped over all parts of an input; each kind is reported once.

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
    """How often one kind was found, among `of` items (0: unknown), and the first five locations."""

    count: int = 0
    of: int = 0
    first: list[str] = field(default_factory=list)


class Tally:
    """Counts; empty until something is added."""

    def __init__(self) -> None:
        """Start with nothing found."""
        self._found: dict[str, Found] = {}

    def __getitem__(self, what: str) -> Found:
        """Return what was found of one kind."""
        return self._found.get(what, Found())

    def add(self, what: str, locations: Sequence[str], *, of: int = 0, count: int | None = None) -> None:
        """Add the findings of another part: `count` of them (default: one per location) among `of` items."""
        found = self._found.setdefault(what, Found())
        found.count += len(locations) if count is None else count
        found.of += of
        found.first += locations[: _KEPT_LOCATIONS - len(found.first)]

    def __iter__(self) -> Iterator[tuple[str, Found]]:
        """Yield each kind that was looked for, with what was found."""
        return iter(self._found.items())

    def add_truncated(self, truncated: Sequence[int], locations: Sequence[str], *, max_tokens: int) -> None:
        """Add the truncated texts of another part, as indices `truncated` into its `locations`."""
        what = f"texts were longer than {max_tokens} tokens and were truncated"
        self.add(what, [locations[number] for number in truncated], of=len(locations))

    def sentences(self) -> dict[str, str]:
        """Return one sentence for each kind that was found."""
        return {
            what: f"{found.count}{f' of {found.of}' if found.of else ''} {what}"
            f"{f' (first: {found.first[0]})' if found.first else ''}"
            for what, found in self._found.items()
            if found.count
        }

    def report(self, reported: set[str] | None = None) -> None:
        """Log a warning for each kind that was found, except those in `reported`; add the new ones to `reported`."""
        for what, sentence in self.sentences().items():
            if reported is None or what not in reported:
                logger.warning("%s", sentence)
                if reported is not None:
                    reported.add(what)


@contextmanager
def reporting_tally(reported: set[str] | None = None) -> Iterator[Tally]:
    """Yield a tally that is reported when the block ends, even early or with an error; see `Tally.report`."""
    tally = Tally()
    try:
        yield tally
    finally:
        tally.report(reported)
