"""From rows of a file to rows of predictions, in their order and in bounded memory.

In: a loaded model with a head, a file of texts, pairs or questions. Out: windows of rows with `id` and `prediction`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from minilm.corpus.squad import Question, read_squad
from minilm.corpus.tables import Row, read_rows
from minilm.errors import DataError
from minilm.infer.api import LoadedModel
from minilm.infer.batching import windows
from minilm.tasks.text_task import ID_COLUMNS, OfficialLayout

logger = logging.getLogger(__name__)

_WINDOW = 1024  # rows that are computed together
_SPAN_WINDOW = 64  # questions; each is several windows of tokens

Prediction = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold the texts and the id, also in the published files of a GLUE task.

    Without `id` it is the first of `id`, `idx` and `index` that is there, else the row number from 0.
    """

    text: str
    text_pair: str | None = None
    id: str | None = None
    official: OfficialLayout = field(default_factory=OfficialLayout)

    def of(self, row: Row) -> Columns:
        """The columns under the names that the file of `row` has; as they are when it has none of them."""
        ways = (self, *(replace(self, text=way.text, text_pair=way.text_pair) for way in self.official.columns))
        return next((way for way in ways if {way.text, way.text_pair or way.text} <= row.values.keys()), self)


@dataclass(frozen=True, kw_only=True)
class _Texts:
    id: str
    text: str
    text_pair: str | None


def read_texts(path: Path, columns: Columns) -> Iterator[_Texts]:
    """The texts of a file, one by one.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, or lacks a text; names file and line.
    """
    for number, row in enumerate(read_rows(path, unnamed=columns.official.unnamed)):
        if row.misfit:
            raise DataError(f"{path}:{row.line}: {row.misfit} (a text may hold a tab); correct the row")
        columns = columns if number else columns.of(row)
        if columns.id is not None:
            _require(path, row, columns.id)
        pair = None if columns.text_pair is None else _text(path, row, columns.text_pair)
        yield _Texts(id=row_id(row, columns.id, number), text=_text(path, row, columns.text), text_pair=pair)


def read_questions(path: Path) -> Iterator[Question]:
    """The questions of a file: official nested .json whole, rows of any other kind one by one.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, or lacks question or context; names file and line.
    """
    if path.name.lower().removesuffix(".gz").endswith(".json"):
        yield from read_squad(path, labelled=False)
        return
    for number, row in enumerate(read_rows(path)):
        yield Question(
            id=row_id(row, None, number),
            question=_text(path, row, "question"),
            context=_text(path, row, "context"),
            place=f"{path}:{row.line}",
        )


def classified(model: LoadedModel, rows: Iterator[_Texts]) -> Iterator[list[Prediction]]:
    """Label and probability of each row, window by window; the number alone for a regression model."""
    for window in windows(rows, _WINDOW):
        pairs = [row.text_pair or "" for row in window] if window[0].text_pair is not None else None
        found = model.classify([row.text for row in window], pairs)
        yield [
            {"id": row.id, "prediction": one.label, "score": round(one.score, 6)}
            if one.label
            else {"id": row.id, "prediction": one.score}
            for row, one in zip(window, found, strict=True)
        ]


def answered(model: LoadedModel, questions: Iterator[Question]) -> Iterator[list[Prediction]]:
    """Answer, probability, null odds and place of each question, window by window."""
    for window in windows(questions, _SPAN_WINDOW):
        yield [
            {
                "id": answer.id,
                "prediction": answer.text,
                "score": round(answer.score, 6),
                **({} if answer.null_odds is None else {"null_odds": answer.null_odds}),
                "start": answer.start,
                "end": answer.end,
            }
            for answer in model.answers(window)
        ]


def _require(path: Path, row: Row, column: str) -> None:
    if column not in row.values:
        found = ", ".join(map(repr, list(row.values)[:8])) or "no column"
        raise DataError(f"{path}:{row.line}: no column {column!r} (the row has {found}); name the right one")


def _text(path: Path, row: Row, column: str) -> str:
    _require(path, row, column)
    value = row.values[column]
    if not isinstance(value, str):
        raise DataError(f"{path}:{row.line}: {column} is a {type(value).__name__}, expected a string")
    return value


def row_id(row: Row, column: str | None, number: int) -> str:
    """The id of row `number`: what `column` holds, or the usual column of ids, else the number."""
    name = column or next((name for name in ID_COLUMNS if name in row.values), None)
    return str(number if name is None else row.values.get(name, number))
