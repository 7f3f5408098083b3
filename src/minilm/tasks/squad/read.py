"""Read the questions of a SQuAD file.

In: the official nested .json (v1.1 or v2.0), or one question a line (.jsonl, or .json); each optionally .gz.
Out: checked questions in file order, each with its place; or only their right answers, for scoring. A file with
anything wrong in it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from minilm.errors import DataError
from minilm.files.by_id import read_json_text
from minilm.files.fields import no_field
from minilm.files.json import parse_json_object
from minilm.score.squad import SquadReference

_T = TypeVar("_T")
_KINDS: dict[type, str] = {
    **{str: "a string", int: "a whole number", float: "a number", bool: "true or false"},
    **{list: "a list", dict: "an object", type(None): "null"},
}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldAnswer:
    """An answer of the file: its text and its first character in the context, None where the file does not say."""

    text: str
    start: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about one context.

    Attributes:
        id: its name, unique in its file.
        question: what is asked.
        context: where the answer stands.
        title: of the article; "" where there is none.
        answers: the right answers; none when the question is impossible or the file was read unlabelled.
        is_impossible: the context holds no answer (SQuAD 2.0).
        place: where it was read, for messages.
    """

    id: str
    question: str
    context: str
    title: str = ""
    answers: tuple[GoldAnswer, ...] = ()
    is_impossible: bool = False
    place: str = ""

    @property
    def where(self) -> str:
        """Its place, or its name when it was not read from a file."""
        return self.place or f"question {self.id!r}"


def read_squad(path: Path, *, labelled: bool = True) -> list[Question]:
    """Read every question of a file.

    Args:
        path: .json (`data`, `paragraphs`, `qas`), or .jsonl or .json with an object a line (fields `id`, `question`,
            `context`, and `answers` and `is_impossible` beside them), each optionally with .gz after it.
        labelled: read `answers` and `is_impossible`; without, they need not be there and are not looked at.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: broken JSON, a field missing or of another kind, an id given twice, or no question; with its
            place: file:line, or article, paragraph and question counted from 1.
        SystemProblem: the file cannot be read.
    """
    contexts: dict[str, str] = {}  # one copy of each for all questions about it
    return [_question(key, row, contexts, labelled=labelled) for key, row in _rows(path)]


def read_squad_references(path: Path) -> list[SquadReference]:
    """Read what answers are scored against: of each question only `id` and `answers`, in the same files.

    Raises:
        UsageError, DataError, SystemProblem: as `read_squad`.
    """
    return [
        SquadReference(id=key, answers=tuple(answer.text("text") for answer in row.rows("answers", "answer")))
        for key, row in _rows(path)
    ]


def _rows(path: Path) -> Iterator[tuple[str, _Row]]:
    """The questions of a file with their ids, one by one, as they stand there; at least one."""
    text, by_line = read_json_text(path)
    places: dict[str, str] = {}
    repeated: list[str] = []
    for row in _line_rows(text, path) if by_line else _nested_rows(text, path):
        key = row.id()
        if key in places:
            repeated.append(f"{row.place}: id {key!r} is already at {places[key]}")
            continue
        places[key] = row.place
        yield key, row
    if repeated:
        raise DataError(f"{repeated[0]} ({len(repeated):,} repeated ids in all); keep one of each")
    if not places:
        raise DataError(f"{path}: the file holds no question; expected at least one")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One JSON object and its place; what is asked of it is there and of the right kind, or a DataError."""

    fields: dict[str, object]
    place: str

    def get(self, name: str, kind: type[_T]) -> _T:
        if name not in self.fields:
            raise DataError(f"{self.place}: {no_field([name], self.fields, fix='add the field or correct its name')}")
        value = self.fields[name]
        if not isinstance(value, kind) or type(value) is not kind:  # true is no number
            raise DataError(f"{self.place}: field {name!r} is {_KINDS[type(value)]}, expected {_KINDS[kind]}")
        return value

    def text(self, name: str) -> str:
        value = self.get(name, str)
        if _LONE_SURROGATE.search(value):
            raise DataError(f"{self.place}: field {name!r} holds half a surrogate pair, which is no character")
        return value

    def id(self) -> str:
        """The id: a text or a whole number."""
        return str(self.get("id", int)) if type(self.fields.get("id")) is int else self.text("id")

    def rows(self, name: str, what: str) -> Iterator[_Row]:
        """The objects of a list, each with its number in the place: `what` 1, 2, ..."""
        for number, item in enumerate(self.get(name, list), 1):
            place = f"{self.place}{', ' if what != 'article' else ': '}{what} {number}"
            if not isinstance(item, dict):
                raise DataError(f"{place} is {_KINDS[type(item)]}, expected an object")
            yield _Row(fields=item, place=place)


def _line_rows(text: str, path: Path) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _Row(fields=parse_json_object(line, path, line=number), place=f"{path}:{number}")


def _nested_rows(text: str, path: Path) -> Iterator[_Row]:
    """The questions of the official nesting, each with the context and the title that stand above it."""
    for article in _Row(fields=parse_json_object(text, path), place=str(path)).rows("data", "article"):
        for paragraph in article.rows("paragraphs", "paragraph"):
            above = {
                name: one.fields[name]
                for name, one in (("context", paragraph), ("title", article))
                if name in one.fields
            }
            for row in paragraph.rows("qas", "question"):
                yield _Row(fields={**row.fields, **above}, place=row.place)


def _question(key: str, row: _Row, contexts: dict[str, str], *, labelled: bool) -> Question:
    impossible = labelled and "is_impossible" in row.fields and row.get("is_impossible", bool)
    answers = tuple(map(_answer, row.rows("answers", "answer"))) if labelled else ()
    if labelled and impossible == bool(answers):
        found, expected = ("answers", "none") if answers else ("no answer", "one")
        raise DataError(
            f"{row.place}: found {found}, expected {expected}: 'is_impossible' is {'true' if impossible else 'false'}"
            f"{'' if 'is_impossible' in row.fields else ' when it is left out'}; correct one of the two"
        )
    context = row.text("context")
    return Question(
        id=key,
        question=row.text("question"),
        context=contexts.setdefault(context, context),
        title=row.text("title") if "title" in row.fields else "",
        answers=answers,
        is_impossible=impossible,
        place=row.place,
    )


def _answer(row: _Row) -> GoldAnswer:
    start = None if row.fields.get("answer_start", 0) is None else row.get("answer_start", int)
    return GoldAnswer(text=row.text("text"), start=start)
