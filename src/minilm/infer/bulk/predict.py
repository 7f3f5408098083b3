"""Predictions for the rows of a file, in order.

In: a loaded model with a head; a file of texts (also one per line), pairs, questions or sentences. Out: chunks of rows
with `id` and `prediction`; of candidates with ids, rows of a run.

The file is read once, before the first row is computed; its texts stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from minilm.errors import DataError, UsageError
from minilm.files.by_id import row_id
from minilm.files.fields import no_field
from minilm.files.formats import ROW_READERS, require_kind
from minilm.files.rows import Row, read_rows
from minilm.files.source import Source, suffix_of
from minilm.infer.api import LoadedModel
from minilm.infer.batching import chunked
from minilm.infer.predictions import (
    answer_part,
    classify_part,
    prediction_row,
    ranking_scores,
    score_part,
    shown_scores,
    tag_part,
)
from minilm.infer.sources import Part
from minilm.tally import Tally, reporting_tally
from minilm.tasks.rerank.rows import KnownPairs
from minilm.tasks.squad.read import Question, read_squad
from minilm.tasks.squad.settings import AnswerSettings
from minilm.tasks.text.rows import MISFITS, OfficialLayout, are_ids, usual_id_column
from minilm.tasks.tokens.conll import CONLL_SUFFIXES, WORDS
from minilm.tasks.tokens.rows import EMPTY, TEXT, is_lines, sentence_rows

_ROWS_PER_CHUNK = 1024  # rows computed together
_QUESTIONS_PER_CHUNK = 64  # each question becomes several windows of tokens
_NAMED_BY = "--text, --text-pair or --id"

Prediction = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class InputColumns:
    """The columns that hold the texts and the id, also in the published files of a GLUE task (`official`).

    Without `id`, the usual columns are tried; see `read_text_inputs`.
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
        """The columns under the names used in the file of `row`; unchanged if it has none of them."""
        published = self.official.columns if self.official else ()
        ways = (self, *(replace(self, text=way.text, text_pair=way.text_pair) for way in published))
        return next((way for way in ways if {way.text, way.text_pair or way.text} <= row.values.keys()), self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextInput:
    """A text or pair to label, with its id, and its location for messages."""

    id: str
    text: str
    text_pair: str | None
    location: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceInput:
    """A text, or the words of one, to tag, with its id, and its location for messages."""

    id: str
    part: Part
    location: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateInput:
    """A query and a text to score, with the ids of both if the file has them, and its location for messages."""

    id: str
    query: str
    text: str
    ids: tuple[str, str] | None
    location: str


_Input = TypeVar("_Input", TextInput, Question, SentenceInput, CandidateInput)


def read_text_inputs(path: Source, columns: InputColumns) -> list[TextInput]:
    """Read the texts of a file once; all of them are kept in memory.

    In published files, rows of the wrong width are skipped with a warning. The id of a row is its value in the given
    column, else in the first of `id`, `idx` and `index` that exists. If no column was given and the values are not
    valid or not unique, rows are numbered from 0, with a warning. `minilm finetune` and `minilm score` read the same
    file in the same way.

    Args:
        path: the file, or standard input.
        columns: the columns to read.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, lacks a text or a given column, or has an invalid id; names file and line.
    """
    found: InputColumns | None = None

    def parse(row: Row, number: int, location: str) -> TextInput:
        nonlocal found
        found = found or columns.of(row)
        pair = None if found.text_pair is None else _text(row, found.text_pair, location)
        return TextInput(id=str(number), text=_text(row, found.text, location), text_pair=pair, location=location)

    return _read(path, columns, parse)


def read_questions(path: Source, columns: InputColumns) -> list[Question]:
    """Read the questions of a file once: official nested .json, which has its own ids, or rows, as for texts.

    Args:
        path: the file, or standard input.
        columns: the columns of rows.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, lacks its question or context, or has an invalid id; names file and line.
    """
    if is_official_squad(path):
        return read_squad(path, labelled=False)

    def parse(row: Row, number: int, location: str) -> Question:
        question, context = _text(row, "question", location), _text(row, "context", location)
        return Question(id=str(number), question=question, context=context, location=location)

    return _read(path, columns, parse)


def read_candidates(path: Source, columns: InputColumns, id_columns: tuple[str, str]) -> list[CandidateInput]:
    """Read pairs of a query and a text once; if the first row has both `id_columns`, every row needs them, else none.

    Args:
        path: the file, or standard input.
        columns: the columns of the query (`text`), the text (`text_pair`) and the id of a row.
        id_columns: the columns of the ids of the query and of the text.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, lacks a text or an id, has an invalid id or the ids of an earlier row, or an id
            has two queries; names file and line.
    """
    pair_ids = _PairIds(columns=id_columns)

    def parse(row: Row, number: int, location: str) -> CandidateInput:
        query, text = _text(row, columns.text, location), _text(row, str(columns.text_pair), location)
        ids = pair_ids.of(row, query, location)
        return CandidateInput(id=str(number), query=query, text=text, ids=ids, location=location)

    return _read(path, columns, parse)


@dataclass(kw_only=True)
class _PairIds:
    """The ids of candidates, which all rows have or none; `first` is the location of the first row."""

    columns: tuple[str, str]
    first: str = ""
    is_present: bool = False
    known: KnownPairs = field(default_factory=KnownPairs)

    def of(self, row: Row, query: str, location: str) -> tuple[str, str] | None:
        """The ids of the query and the text of a row; None if the first row has none."""
        has_both = {*self.columns} <= row.values.keys()
        if not self.first:
            self.first, self.is_present = location, has_both
        if not self.is_present:
            if has_both:
                raise DataError(
                    f"{location}: found {' and '.join(map(repr, self.columns))}, which {self.first} lacks; expected "
                    "them in every row or in none"
                )
            return None
        ids = row_id(location, row.values, self.columns[:1]), row_id(location, row.values, self.columns[1:])
        if "" in ids:
            raise DataError(f"{location}: column {self.columns[ids.index('')]!r} is an empty id; correct the row")
        self.known.add(ids, query, location)
        return ids


def read_sentences(path: Source, columns: Sequence[str], *, id_column: str | None) -> list[SentenceInput]:
    """Read the sentences of a file once, as for texts: column files, one text per line, or rows with either.

    Args:
        path: the file, or standard input.
        columns: columns of the text or the words; the first one that exists.
        id_column: column of the id; None: as for texts.

    In a file without named columns (`is_lines`) neither is read, and sentences are numbered.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, has neither text nor words, or has an invalid id; names file and line.
    """
    require_kind(path, (*CONLL_SUFFIXES, ".tsv", *ROW_READERS))
    rows: Iterable[Row] | None = None
    if is_lines(path):
        rows, columns, id_column = sentence_rows(path, tagged=False), (WORDS, TEXT), None

    def parse(row: Row, number: int, location: str) -> SentenceInput:
        column = next((name for name in columns if name in row.values), None)
        if column is None:
            fix = "correct the row, or name its text or list of words with --text"
            raise DataError(f"{location}: {no_field(columns, row.values, fix=fix)}")
        part = row.text_or_tokens(column, location, named_by="--text")
        return SentenceInput(id=str(number), part=part, location=location)

    return _read(path, InputColumns(text=columns[0], id=id_column), parse, rows)


def _read(
    path: Source,
    columns: InputColumns,
    parse: Callable[[Row, int, str], _Input],
    rows: Iterable[Row] | None = None,
) -> list[_Input]:
    """All rows of a file, each with its id; `rows` are those of a file that is not a table."""
    if is_text(path):  # one text per line
        if columns.text_pair is not None:
            raise UsageError(
                f"{path} has one text per line, expected two: {columns.text!r} and {columns.text_pair!r}; give rows "
                f"(.jsonl, .csv, .tsv or .parquet) with these columns"
            )
        columns = replace(columns, id=None)
    inputs: list[_Input] = []
    ids: list[object] = []
    id_column = columns.id
    tally = Tally()
    for number, row in enumerate(rows or read_rows(path, unnamed=columns.unnamed, text_column=columns.text)):
        location = f"{path}:{row.line}"
        if columns.official is None:
            row.require_fit(location)
        if row.misfit:
            tally.add(MISFITS, [f"{location}: {row.misfit}"])
            continue
        if not inputs:
            id_column = columns.id or usual_id_column(row)
        inputs.append(parse(row, number, location))
        if id_column is not None:
            if columns.id is not None:
                row.value(id_column, location, named_by=_NAMED_BY)
            ids.append(row.values.get(id_column))
    tally.report()
    found = ((value, one.location) for value, one in zip(ids, inputs, strict=False))
    if id_column is None or not are_ids(found, id_column, named=columns.id is not None):
        return inputs
    return [replace(one, id=str(value)) for value, one in zip(ids, inputs, strict=True)]


def is_text(path: Source) -> bool:
    """Whether a file has one text per line and no columns."""
    return suffix_of(path) == ".txt"


def is_official_squad(path: Source) -> bool:
    """Whether a file of questions has the official nested .json format, which has its own ids."""
    return suffix_of(path) == ".json"


def classified(model: LoadedModel, rows: Iterable[TextInput]) -> Generator[list[Prediction], None, None]:
    """The prediction of each row, chunk by chunk, as `prediction_row` says."""
    with reporting_tally() as tally:
        for chunk in chunked(rows, _ROWS_PER_CHUNK):
            pairs = [row.text_pair or "" for row in chunk] if chunk[0].text_pair is not None else None
            locations = [row.location for row in chunk]
            tally.add("texts are empty", [row.location for row in chunk if not row.text.strip()], of=len(chunk))
            found = classify_part(model, [row.text for row in chunk], pairs, locations=locations, tally=tally)
            yield [{"id": row.id, **prediction_row(one, model.labels)} for row, one in zip(chunk, found, strict=True)]


def scored(model: LoadedModel, rows: Iterable[CandidateInput]) -> Generator[list[Prediction], None, None]:
    """The score of each pair, chunk by chunk; with ids in the form of a run, which `minilm score retrieval` reads.

    The scores of a run are those that rank, before the activation of the folder.
    """
    with reporting_tally() as tally:
        for chunk in chunked(rows, _ROWS_PER_CHUNK):
            locations = [row.location for row in chunk]
            tally.add("texts are empty", [row.location for row in chunk if not row.text.strip()], of=len(chunk))
            queries, texts = [row.query for row in chunk], [row.text for row in chunk]
            raw = score_part(model, queries, texts, raw_scores=True, locations=locations, tally=tally)
            ranking = ranking_scores(raw, model.activation)
            shown = shown_scores(ranking, model.activation)
            yield [
                {"id": row.id, "prediction": score}
                if row.ids is None
                else {"query": row.ids[0], "doc": row.ids[1], "score": rank_by}
                for row, score, rank_by in zip(chunk, shown.tolist(), ranking.tolist(), strict=True)
            ]


def tagged(model: LoadedModel, sentences: Iterable[SentenceInput]) -> Generator[list[Prediction], None, None]:
    """The entities of each text, chunk by chunk; where words were given, also the tag of each."""
    with reporting_tally() as tally:
        for chunk in chunked(sentences, _ROWS_PER_CHUNK):
            empty = [one.location for one in chunk if not (one.part.strip() if isinstance(one.part, str) else one.part)]
            tally.add(EMPTY, empty, of=len(chunk))
            locations = [one.location for one in chunk]
            found = tag_part(model, [one.part for one in chunk], locations=locations, tally=tally)
            yield [
                {"id": one.id, **tags.row(with_words=not isinstance(one.part, str))}
                for one, tags in zip(chunk, found, strict=True)
            ]


def answered(
    model: LoadedModel, questions: Iterable[Question], settings: AnswerSettings
) -> Generator[list[Prediction], None, None]:
    """Answer, probability, null odds and location of each question, chunk by chunk."""
    with reporting_tally() as tally:
        for chunk in chunked(questions, _QUESTIONS_PER_CHUNK):
            empty = [one.where for one in chunk if not (one.question.strip() and one.context.strip())]
            tally.add("questions or their contexts are empty", empty, of=len(chunk))
            yield [answer.row() for answer in answer_part(model, chunk, settings=settings, tally=tally)]


def _text(row: Row, column: str, location: str) -> str:
    return row.text(column, location, named_by=_NAMED_BY)
