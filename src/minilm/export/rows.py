"""The texts of a quantization: half of them calibrate, the other half is compared.

Neighbours stay together, two by two: in a file that alternates queries and their texts, both halves have both, and a
model that reads pairs finds a query before its text.

In: a file of texts, or nothing: then the texts that ship with the package. Out: two lists without a common text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from minilm.errors import DataError
from minilm.files.source import Source
from minilm.files.texts import read_texts
from minilm.tally import reporting_tally

SHIPPED = Path(__file__).with_name("texts.txt")
MOST_ROWS = 512  # of each half
_LEAST_ROWS = 20  # of each half: of fewer, the ten nearest are nearly all


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Texts by their use."""

    calibration: tuple[str, ...]
    compared: tuple[str, ...]


def read_rows(source: Source | None, *, field: str = "text") -> Rows:
    """The first texts of a file without repetitions: of each four, two calibrate and the next two are compared.

    Args:
        source: a file, or standard input; None: the texts of the package.
        field: name of the text in formats with names.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: the file is damaged, or has too few texts.
    """
    with reporting_tally() as tally:
        texts = read_texts([source or SHIPPED], field=field if source else "text", max_bad_rows=1.0, tally=tally)
        found = list(islice(_unique(texts), 2 * MOST_ROWS))
    if len(found) < 2 * _LEAST_ROWS:
        raise DataError(
            f"{source}: found {len(found)} different texts, expected at least {2 * _LEAST_ROWS}: half of them "
            "calibrate and half are compared; give more texts, or leave out --texts"
        )
    return Rows(
        calibration=tuple(text for place, text in enumerate(found) if place % 4 < 2),
        compared=tuple(text for place, text in enumerate(found) if place % 4 >= 2),
    )


def _unique(texts: Iterable[str]) -> Iterable[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text
