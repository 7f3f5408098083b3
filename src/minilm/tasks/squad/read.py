"""Reads the questions of a SQuAD file.

In: the official nested .json (v1.1 or v2.0), flat questions under `data` or in an array, or one question per line
(.jsonl, or .json); each optionally .gz; or .parquet. Answers are a list of objects, or the hub's object of two lists.
Out: validated questions in file order, each with its location; or only their gold answers, for scoring. Any invalid
entry rejects the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from minilm.errors import DataError
from minilm.files.by_id import read_json_text
from minilm.files.fields import kind_named, kind_of, no_field
from minilm.files.json import parse_json_object
from minilm.files.rows import read_rows
from minilm.files.source import Source, suffix_of
from minilm.score.squad import SquadReference

_T = TypeVar("_T")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldAnswer:
    """A gold answer: its text and the offset of its first character in the context, None if the file has none."""

    text: str
    start: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about one context.

    Attributes:
        id: its id, unique in its file.
        question: text of the question.
        context: the passage that may contain the answer.
        title: title of the article; "" if there is none.
        answers: the gold answers; empty if the question is unanswerable or the file was read without labels.
        is_impossible: the context does not contain the answer (SQuAD 2.0).
        location: its location in the file, for messages.
    """

    id: str
    question: str
    context: str
    title: str = ""
    answers: tuple[GoldAnswer, ...] = ()
    is_impossible: bool = False
    location: str = ""

    @property
    def where(self) -> str:
        """Its location, or its id if it was not read from a file."""
        return self.location or f"question {self.id!r}"


def read_squad(path: Source, *, labelled: bool = True) -> list[Question]:
    """Read all questions of a file.

    Args:
        path: .json (`data`, `paragraphs`, `qas`), or .jsonl or .json with one object per line (fields `id`, `question`,
            `context`, `answers` and `is_impossible`), each optionally followed by .gz, or .parquet with these columns.
            The objects may also be an array, or the list `data`. `answers` may be an object with the lists `text` and
            `answer_start`; then a question without answers is impossible if nothing else is said.
        labelled: read `answers` and `is_impossible`; otherwise they are optional and ignored.

    Raises:
        UsageError: the path does not exist or its suffix is unknown.
        DataError: invalid JSON, a missing field, a field of the wrong type, a repeated id, or no question. The message
            names the location: file:line, or article, paragraph and question counted from 1.
        SystemProblem: the file cannot be read.
    """
    contexts: dict[str, str] = {}  # shared by all questions about the same context
    return [_question(key, row, contexts, labelled=labelled) for key, row in _rows(path)]


def read_squad_references(path: Source) -> list[SquadReference]:
    """Read only the `id` and `answers` of each question, as references for scoring.

    Raises:
        UsageError, DataError, SystemProblem: as `read_squad`.
    """
    return [
        SquadReference(id=key, answers=tuple(answer.text("text") for answer in row.answers()))
        for key, row in _rows(path)
    ]


def _rows(path: Source) -> Iterator[tuple[str, _Row]]:
    """Yield the questions of a file with their ids, in file order; raises DataError if there is none."""
    locations: dict[str, str] = {}
    repeated: list[str] = []
    for row in _parquet_rows(path) if suffix_of(path) == ".parquet" else _json_rows(path):
        key = row.id()
        if key in locations:
            repeated.append(f"{row.location}: repeated id {key!r}, first used at {locations[key]}")
            continue
        locations[key] = row.location
        yield key, row
    if repeated:
        raise DataError(f"{repeated[0]} ({len(repeated):,} repeated ids in total); keep one question per id")
    if not locations:
        raise DataError(f"{path}: found no question; expected at least one")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One JSON object and its location; its accessors raise DataError for a missing field or a wrong type."""

    fields: dict[str, object]
    location: str

    def get(self, name: str, kind: type[_T]) -> _T:
        if name not in self.fields:
            raise DataError(
                f"{self.location}: {no_field([name], self.fields, fix='add the field or correct its name')}"
            )
        value = self.fields[name]
        if not isinstance(value, kind) or type(value) is not kind:  # bool is a subclass of int
            raise DataError(f"{self.location}: field {name!r} is {kind_of(value)}, expected {kind_named(kind)}")
        return value

    def text(self, name: str) -> str:
        value = self.get(name, str)
        if _LONE_SURROGATE.search(value):
            raise DataError(f"{self.location}: field {name!r} contains an unpaired surrogate; correct the text")
        return value

    def id(self) -> str:
        """The id, a string or a whole number."""
        return str(self.get("id", int)) if type(self.fields.get("id")) is int else self.text("id")

    @property
    def has_answer_lists(self) -> bool:
        """Whether `answers` is an object with the lists `text` and `answer_start`, as on the hub."""
        return isinstance(self.fields.get("answers"), dict)

    def answers(self) -> Iterator[_Row]:
        """The gold answers, in either form."""
        if not self.has_answer_lists:
            yield from self.rows("answers", "answer")
            return
        lists = _Row(fields=self.get("answers", dict), location=f"{self.location}, answers")
        texts, starts = lists.get("text", list), lists.get("answer_start", list)
        if len(texts) != len(starts):
            raise DataError(
                f"{lists.location}: found {len(texts)} of 'text' and {len(starts)} of 'answer_start'; expected one "
                f"offset for each text"
            )
        for number, (text, start) in enumerate(zip(texts, starts, strict=True), 1):
            yield _Row(fields={"text": text, "answer_start": start}, location=f"{self.location}, answer {number}")

    def rows(self, name: str, what: str) -> Iterator[_Row]:
        """The objects of a list; each location is extended by `what` 1, 2, ..."""
        for number, item in enumerate(self.get(name, list), 1):
            location = f"{self.location}{', ' if what != 'article' else ': '}{what} {number}"
            if not isinstance(item, dict):
                raise DataError(f"{location} is {kind_of(item)}, expected an object")
            yield _Row(fields=item, location=location)


def _json_rows(path: Source) -> Iterator[_Row]:
    text, by_line = read_json_text(path)
    return _line_rows(text, path) if by_line else _nested_rows(text, path)


def _parquet_rows(path: Source) -> Iterator[_Row]:
    for row in read_rows(path):
        yield _Row(fields=dict(row.values), location=f"{path}:{row.line}")


def _line_rows(text: str, path: Source) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _Row(fields=parse_json_object(line, path, line=number), location=f"{path}:{number}")


def _nested_rows(text: str, path: Source) -> Iterator[_Row]:
    """The questions of the official nested format, each with the context and title of its parents; or flat ones."""
    is_array = text.lstrip().startswith("[")
    whole = parse_json_object(f'{{"data": {text}}}' if is_array else text, path)
    for article in _Row(fields=whole, location=str(path)).rows("data", "article"):
        if "paragraphs" not in article.fields and "question" in article.fields:
            yield article
            continue
        for paragraph in article.rows("paragraphs", "paragraph"):
            inherited = {
                name: one.fields[name]
                for name, one in (("context", paragraph), ("title", article))
                if name in one.fields
            }
            for row in paragraph.rows("qas", "question"):
                yield _Row(fields={**row.fields, **inherited}, location=row.location)


def _question(key: str, row: _Row, contexts: dict[str, str], *, labelled: bool) -> Question:
    impossible = labelled and "is_impossible" in row.fields and row.get("is_impossible", bool)
    answers = tuple(map(_answer, row.answers())) if labelled else ()
    if labelled and row.has_answer_lists and "is_impossible" not in row.fields:
        impossible = not answers
    if labelled and impossible == bool(answers):
        found, expected = ("answers", "none") if answers else ("no answer", "one")
        raise DataError(
            f"{row.location}: found {found}, expected {expected}: 'is_impossible' is "
            f"{'true' if impossible else 'false'}{'' if 'is_impossible' in row.fields else ' by default'}; "
            "correct one of the two"
        )
    context = row.text("context")
    return Question(
        id=key,
        question=row.text("question"),
        context=contexts.setdefault(context, context),
        title=row.text("title") if "title" in row.fields else "",
        answers=answers,
        is_impossible=impossible,
        location=row.location,
    )


def _answer(row: _Row) -> GoldAnswer:
    start = None if row.fields.get("answer_start", 0) is None else row.get("answer_start", int)
    return GoldAnswer(text=row.text("text"), start=start)
