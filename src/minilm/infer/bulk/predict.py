"""From rows of a file to rows of predictions, in their order and in bounded memory.

In: a loaded model with a head, a file of texts, pairs or questions. Out: chunks of rows with `id` and `prediction`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from minilm.errors import DataError
from minilm.files.fields import no_field
from minilm.files.formats import BadRows
from minilm.files.rows import Row, read_rows
from minilm.infer.api import LoadedModel
from minilm.infer.batching import chunked
from minilm.infer.predictions import answer_part, classify_part
from minilm.tally import reporting_tally
from minilm.tasks.squad.read import Question, read_squad
from minilm.tasks.squad.settings import AnswerSettings
from minilm.tasks.text.rows import OfficialLayout, are_ids, usual_id_column

logger = logging.getLogger(__name__)

_ROWS_PER_CHUNK = 1024  # rows that are computed together
_QUESTIONS_PER_CHUNK = 64  # questions; each is several windows of tokens

Prediction = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class InputColumns:
    """Which columns hold the texts and the id, also in the published files of a GLUE task (`official`).

    Without `id` rows are numbered from 0; see `own_ids`.
    """

    text: str
    text_pair: str | None = None
    id: str | None = None
    official: OfficialLayout | None = None

    @property
    def unnamed(self) -> tuple[str, ...]:
        """Names of the columns of published files without a header."""
        return self.official.unnamed if self.official else ()

    def of(self, row: Row) -> InputColumns:
        """The columns under the names that the file of `row` has; as they are when it has none of them."""
        published = self.official.columns if self.official else ()
        ways = (self, *(replace(self, text=way.text, text_pair=way.text_pair) for way in published))
        return next((way for way in ways if {way.text, way.text_pair or way.text} <= row.values.keys()), self)


@dataclass(frozen=True, kw_only=True)
class _Texts:
    id: str
    text: str
    text_pair: str | None
    place: str


def own_ids(path: Path, columns: InputColumns) -> InputColumns:
    """The columns with the `id` that the rows have: the named one, or the first of `id`, `idx` and `index` there is.

    Where none was named and the values are no ids, or not all different, that is warned about, and there is none: as
    `minilm finetune` and `minilm score` take the same file.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row lacks the column that was named, or its value is no id; names file and line.
    """
    rows = (row for row in read_rows(path, unnamed=columns.unnamed) if not row.misfit)
    first = next(rows, None)
    name = columns.id or (usual_id_column(first) if first is not None else None)
    if first is None or name is None:
        return columns
    values = (
        (_id_value(path, row, name, named=columns.id is not None), f"{path}:{row.line}") for row in chain([first], rows)
    )
    return replace(columns, id=name if are_ids(values, name, named=columns.id is not None) else None)


def _id_value(path: Path, row: Row, name: str, *, named: bool) -> object:
    if named:
        _require(path, row, name)
    return row.values.get(name)


def read_text_inputs(path: Path, columns: InputColumns, misfits: BadRows) -> Iterator[_Texts]:
    """The texts of a file, one by one; in published files rows of the wrong width are left out (`misfits`).

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, or lacks a text; names file and line.
    """
    found: InputColumns | None = None
    for number, row in enumerate(read_rows(path, unnamed=columns.unnamed)):
        if row.misfit and columns.official is None:
            raise DataError(f"{path}:{row.line}: {row.misfit} (a text may hold a tab); correct the row")
        if row.misfit:
            misfits.add(path, row.line, row.misfit)
            continue
        found = found or columns.of(row)
        pair = None if found.text_pair is None else _text(path, row, found.text_pair)
        text, place = _text(path, row, found.text), f"{path}:{row.line}"
        yield _Texts(id=_id(row, columns, number), text=text, text_pair=pair, place=place)


def read_questions(path: Path, columns: InputColumns) -> Iterator[Question]:
    """The questions of a file: official nested .json whole, rows of any other kind one by one, with ids of `columns`.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, or lacks question or context; names file and line.
    """
    if is_official_squad(path):
        yield from read_squad(path, labelled=False)
        return
    for number, row in enumerate(read_rows(path)):
        yield Question(
            id=_id(row, columns, number),
            question=_text(path, row, "question"),
            context=_text(path, row, "context"),
            place=f"{path}:{row.line}",
        )


def is_official_squad(path: Path) -> bool:
    """Whether a file of questions is read as the official nested .json, which has ids of its own."""
    return path.name.lower().removesuffix(".gz").endswith(".json")


def classified(model: LoadedModel, rows: Iterator[_Texts]) -> Generator[list[Prediction], None, None]:
    """Label and probability of each row, chunk by chunk; the number alone for a regression model."""
    with reporting_tally() as tally:
        for chunk in chunked(rows, _ROWS_PER_CHUNK):
            pairs = [row.text_pair or "" for row in chunk] if chunk[0].text_pair is not None else None
            locations = [row.place for row in chunk]
            tally.add("texts are empty", [row.place for row in chunk if not row.text.strip()], of=len(chunk))
            found = classify_part(model, [row.text for row in chunk], pairs, locations=locations, tally=tally)
            yield [
                {"id": row.id, "prediction": one.label, "score": round(one.score, 6)}
                if one.label
                else {"id": row.id, "prediction": one.score}
                for row, one in zip(chunk, found, strict=True)
            ]


def answered(
    model: LoadedModel, questions: Iterator[Question], settings: AnswerSettings
) -> Generator[list[Prediction], None, None]:
    """Answer, probability, null odds and place of each question, chunk by chunk."""
    with reporting_tally() as tally:
        for chunk in chunked(questions, _QUESTIONS_PER_CHUNK):
            empty = [one.where for one in chunk if not (one.question.strip() and one.context.strip())]
            tally.add("questions or their contexts are empty", empty, of=len(chunk))
            yield [
                {
                    "id": answer.id,
                    "prediction": answer.text,
                    "score": round(answer.score, 6),
                    **({} if answer.null_odds is None else {"null_odds": answer.null_odds}),
                    "start": answer.start,
                    "end": answer.end,
                }
                for answer in answer_part(model, chunk, settings=settings, tally=tally)
            ]


def _require(path: Path, row: Row, column: str) -> None:
    if column not in row.values:
        fix = "name the right column with --text, --text-pair or --id"
        raise DataError(f"{path}:{row.line}: {no_field([column], row.values, fix=fix)}")


def _text(path: Path, row: Row, column: str) -> str:
    _require(path, row, column)
    value = row.values[column]
    if not isinstance(value, str):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise DataError(f"{path}:{row.line}: {column} is {kind}, expected a string; correct the row")
    return value


def _id(row: Row, columns: InputColumns, number: int) -> str:
    return str(number if columns.id is None else row.values[columns.id])
