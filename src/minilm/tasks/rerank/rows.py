"""Reads the lists of texts to rank, each for one query: from rows with a text, with a list, or with a positive.

In: a .jsonl, .json, .csv, .tsv (all but .parquet optionally .gz) or .parquet file. Out: `RankedList`s in file order.
A row that cannot be used is a DataError that names it; nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from minilm.errors import DataError
from minilm.files.by_id import row_id
from minilm.files.fields import is_list, no_field, text_in, texts_in
from minilm.files.rows import Row, has_cells, read_rows
from minilm.tasks.rerank.settings import RerankSettings
from minilm.tasks.scored_lists import columns_of_negatives, scored_twice, scores_in

_Shape = Literal["text", "list", "positive"]
_KEYS = "task.query, task.text, task.positive, task.label or task.score"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedList:
    """The texts of one query, and what is known of them.

    Attributes:
        query: the query.
        texts: its texts, at least one.
        labels: how relevant each is, 0 for not relevant; None if unknown. A positive has 1, a negative 0.
        scores: the score of each; None if there are none.
        num_positives: how many of the first texts are the positives of a row; 0 where labels are those of the file.
        id: of the query, else the number of the list in its file.
        doc_ids: of the texts, else their numbers in the list; all different.
        locations: where each text was read, for messages.
    """

    query: str
    texts: tuple[str, ...]
    labels: tuple[float, ...] | None
    scores: tuple[float, ...] | None
    num_positives: int
    id: str
    doc_ids: tuple[str, ...]
    locations: tuple[str, ...]

    @property
    def location(self) -> str:
        """Where it begins, for messages."""
        return self.locations[0]


def read_lists(path: Path, settings: RerankSettings, *, teacher: str | None = None) -> list[RankedList]:
    """Read the lists of a file; rows with one text become one list for each query, in the order of their first rows.

    Args:
        path: the file.
        settings: its columns.
        teacher: the model that will score the texts, which then need neither labels nor scores.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a column is missing, a text is empty, a label or score is not a finite number, their number is not
            that of the texts, there are scores although there is a teacher, a text of a query is repeated, or the file
            has no row; names the line.
        SystemProblem: the file cannot be read.
    """
    reading = _Reading(path=path, settings=settings, teacher=teacher)
    found: list[RankedList] = []
    for row in read_rows(path):
        row.require_fit(f"{path}:{row.line}")
        if shape := reading.shape_of(row):
            found.append(reading.list_of(row, shape, number=len(found)))
    if not found:
        raise DataError(f"{path}: found no row, expected at least one query with a text")
    return joined(found) if reading.shape == "text" else found


def joined(parts: Sequence[RankedList]) -> list[RankedList]:
    """Join the lists of one text each that are of the same query."""
    groups: dict[str, list[RankedList]] = {}
    for part in parts:
        groups.setdefault(part.id or f" {part.query}", []).append(part)  # no id begins with a space
    return [_join(group, number) for number, group in enumerate(groups.values())]


@dataclass(kw_only=True)
class KnownPairs:
    """The pairs of a query and a text that have been read, by their ids.

    Attributes:
        queries: the text of each query, and where it was first read.
        locations: where each pair was read, by the ids of query and text.
    """

    queries: dict[str, tuple[str, str]] = field(default_factory=dict)
    locations: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, ids: tuple[str, str], query: str, location: str) -> None:
        """Add a pair; raises DataError if its query has another text elsewhere, or its text is there already."""
        there, first = self.queries.setdefault(ids[0], (query, location))
        if there != query:
            raise DataError(
                f"{location}: query {ids[0]!r:.60} has the text {query!r:.60}, at {first} {there!r:.60}; expected the "
                "same"
            )
        earlier = self.locations.setdefault(ids, location)
        if earlier != location:
            raise DataError(
                f"{location}: text {ids[1]!r:.60} of query {ids[0]!r:.60} is already at {earlier}; keep one of the two"
            )


def _join(group: Sequence[RankedList], number: int) -> RankedList:
    first, known = group[0], KnownPairs()
    for position, one in enumerate(group):
        known.add((first.id or first.query, one.doc_ids[0] or str(position)), one.query, one.location)
    return RankedList(
        query=first.query,
        texts=tuple(one.texts[0] for one in group),
        labels=_of_all([one.labels for one in group]),
        scores=_of_all([one.scores for one in group]),
        num_positives=0,
        id=first.id or str(number),
        doc_ids=tuple(text for _, text in known.locations),
        locations=tuple(known.locations.values()),
    )


def _of_all(parts: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    known = [part[0] for part in parts if part is not None]
    return tuple(known) if len(known) == len(parts) else None


@dataclass(kw_only=True)
class _Reading:
    """One file being read; the first row determines which columns it has."""

    path: Path
    settings: RerankSettings
    teacher: str | None
    shape: _Shape | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def shape_of(self, row: Row) -> _Shape:
        """The shape of the file's rows."""
        if self.shape is None:
            self._find_columns(row)
        assert self.shape is not None
        return self.shape

    def _find_columns(self, row: Row) -> None:
        chosen = self.settings
        usual = {
            "query": (chosen.query,),
            "text": (chosen.text,) if chosen.text else ("text", "texts"),
            "positive": (chosen.positive,),
            "negatives": (chosen.negatives,) if chosen.negatives else columns_of_negatives(row.values),
            "label": (chosen.label,) if chosen.label else ("label", "labels"),
            "score": self._score_names() if self.teacher is None else (),
        }
        found = {key: next((name for name in names if name in row.values), "") for key, names in usual.items()}
        self.columns = {key: name for key, name in found.items() if name}
        needed = ("query", "text") if "text" in self.columns else ("query", "positive", "negatives")
        for key in needed:
            if key not in self.columns:
                names = [*usual["text"], *usual["positive"]] if key == "positive" else usual[key]
                raise self._error(row, no_field(names, row.values, fix=f"name the columns with {_KEYS}"))
        for key in ("label", "score"):
            if getattr(chosen, key) and usual[key] and key not in self.columns:
                raise self._error(row, no_field(usual[key], row.values, fix=f"correct task.{key}"))
        self.shape = "positive"
        if "text" in self.columns:
            self.shape = "list" if self._has_list(row) else "text"
            if self.teacher is None and not {"label", "score"} & {*self.columns}:
                names = [*usual["label"], *usual["score"]]
                raise self._error(row, no_field(names, row.values, fix=f"name the columns with {_KEYS}"))

    def _score_names(self) -> tuple[str, ...]:
        return (self.settings.score,) if self.settings.score else ("score", "scores")

    def _has_list(self, row: Row) -> bool:
        """Whether the column of texts holds lists."""
        try:
            return is_list(self._value(row, "text"), self.columns["text"], in_cell=has_cells(self.path))
        except ValueError as error:
            raise self._error(row, str(error)) from None

    def list_of(self, row: Row, shape: _Shape, *, number: int) -> RankedList:
        """The list of a row; of one with a single text, `id` and `doc_ids` are empty where there are none."""
        query = self._texts(row, "query", many=False)[0]
        scored = [name for name in self._score_names() if row.values.get(name) not in (None, "")]
        if self.teacher is not None and scored:
            raise DataError(f"{self._at(row)}: {scored_twice(scored[0], self.teacher)}")
        if shape == "positive":
            positives = self._texts(row, "positive")
            texts = [*positives, *self._negatives(row)]
            labels: list[float] | None = [1.0] * len(positives) + [0.0] * (len(texts) - len(positives))
        else:
            positives, texts = [], self._texts(row, "text", many=shape == "list")
            labels = self._numbers(row, "label", len(texts))
        if labels and min(labels) < 0:
            raise self._error(row, f"found the label {min(labels):g}, expected 0 (not relevant) or more")
        ids = self._ids(row) if shape == "text" else [str(number), *map(str, range(len(texts)))]
        scores = self._numbers(row, "score", len(texts))
        return RankedList(
            query=query,
            texts=tuple(texts),
            labels=None if labels is None else tuple(labels),
            scores=None if scores is None else tuple(scores),
            num_positives=len(positives),
            id=ids[0],
            doc_ids=tuple(ids[1:]),
            locations=(self._at(row),) * len(texts),
        )

    def _ids(self, row: Row) -> list[str]:
        """The ids of query and text of a row; empty where there are none."""
        names = (self.settings.query_id, self.settings.doc_id)
        return [row_id(self._at(row), row.values, [name]) if name in row.values else "" for name in names]

    def _negatives(self, row: Row) -> list[str]:
        """The texts of the column of negatives, or of all usual ones; those that a row lacks are left out."""
        if self.settings.negatives is None:
            names = [name for name in columns_of_negatives(row.values) if row.values.get(name) not in (None, "")]
            found = [text for name in names for text in self._texts(row, name)]
            if found:
                return found
        return self._texts(row, "negatives")

    def _texts(self, row: Row, key: str, *, many: bool = True) -> list[str]:
        """The texts of a column: the one that is found for `key`, else the one of that name."""
        value, name, in_cell = self._value(row, key), self.columns.get(key, key), has_cells(self.path)
        try:
            texts = texts_in(value, name, in_cell=in_cell) if many else [text_in(value, name, in_cell=in_cell)]
        except ValueError as error:
            raise self._error(row, str(error)) from None
        if not texts:
            raise self._error(row, f"column {name!r} is an empty list, expected at least one text")
        return texts

    def _numbers(self, row: Row, key: str, count: int) -> list[float] | None:
        """The numbers of a column, one for each of `count` texts; None if the file has no such column."""
        if key not in self.columns:
            return None
        order = ", that of the positive first" if self.shape == "positive" else ""
        try:
            return scores_in(self._value(row, key), self.columns[key], texts=count, order=order)
        except ValueError as error:
            raise self._error(row, str(error)) from None

    def _value(self, row: Row, key: str) -> object:
        name = self.columns.get(key, key)
        if name not in row.values:
            raise self._error(row, no_field([name], row.values, fix="every row needs the columns of the first one"))
        return row.values[name]

    def _at(self, row: Row) -> str:
        return f"{self.path}:{row.line}"

    def _error(self, row: Row, problem: str) -> DataError:
        return DataError(f"{self._at(row)}: {problem}; correct the row or remove it")
