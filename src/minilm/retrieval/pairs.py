"""Pairs of a query and a text that answers it, and the texts among which negatives are looked for.

In: rows with a query and a positive; rows or lines of texts. Out: different queries, each with its positives; different
texts, with the positives among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from minilm.errors import DataError
from minilm.files.fields import text_in
from minilm.files.regular import sha256_texts
from minilm.files.rows import Row, has_cells, read_rows
from minilm.files.source import Source
from minilm.infer.bulk.embed import TextToEmbed
from minilm.tally import reporting_tally


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """The columns of a row of pairs."""

    query: str = "query"
    positive: str = "positive"


@dataclass(frozen=True, kw_only=True)
class MiningTexts:
    """What negatives are mined from; all of it is kept in memory.

    Attributes:
        corpus: different texts.
        positives: rows of `corpus` by query, in the order of the input.
    """

    corpus: list[str]
    positives: dict[str, list[int]]

    @property
    def max_positives(self) -> int:
        """The most positives that a query has."""
        return max(map(len, self.positives.values()))

    def digest(self) -> str:
        """Hex SHA-256 of all texts and of what belongs together."""
        pairs = (part for query, rows in self.positives.items() for part in (query, repr(rows)))
        return sha256_texts(chain([str(len(self.corpus))], self.corpus, pairs))[0]


def read_mining_texts(pairs: Source, corpus: Iterable[TextToEmbed] | None, columns: PairColumns) -> MiningTexts:
    """Read all texts; equal ones are one text, empty ones none; rows with the same query have several positives.

    Args:
        pairs: rows with a query and a positive.
        corpus: where negatives are looked for besides the positives; None: only there.
        columns: of the pairs.

    Raises:
        UsageError: a path is missing or of an unknown kind.
        DataError: a row cannot be read, lacks its query or positive, has a list there, or the file has no rows; names
            file and line.
    """
    rows: dict[str, int] = {}
    with reporting_tally() as tally:
        for one in corpus or ():
            is_empty = not one.text.strip()
            tally.add("texts are empty and not looked at", [one.location] if is_empty else [], of=1)
            if not is_empty:
                rows.setdefault(one.text, len(rows))
    found: dict[str, dict[int, None]] = {}
    for row in read_rows(pairs):
        location = f"{pairs}:{row.line}"
        query, positive = (
            _text(row, name, location, in_cell=has_cells(pairs)) for name in (columns.query, columns.positive)
        )
        found.setdefault(query, {})[rows.setdefault(positive, len(rows))] = None
    if not found:
        raise DataError(f"{pairs}: no pairs found; expected at least one row")
    return MiningTexts(corpus=list(rows), positives={query: list(of) for query, of in found.items()})


def _text(row: Row, name: str, location: str, *, in_cell: bool) -> str:
    """The only text of a field, as training reads it; raises DataError for an empty one or a list."""
    value = row.value(name, location, named_by="--query and --positive")
    try:
        return text_in(value, name, in_cell=in_cell)
    except ValueError as error:
        raise DataError(f"{location}: {error}; correct the row or remove it") from None
