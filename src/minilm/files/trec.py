"""Read runs and judgments of retrieval: which documents were found for a query, and how good each judged one is.

In: text in TREC's columns (run: query, Q0, document, rank, score, tag; judgments: query, iteration, document, grade),
text with a header (BEIR's test.tsv), rows with a query, a document and a value (.jsonl, .json, .csv, .parquet), all but
.parquet optionally .gz, standard input, or a BEIR folder.
Out: scores or grades by query and document, in file order. An unreadable or repeated row is a `DataError` that names
its line.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from minilm.errors import DataError, UsageError
from minilm.files.by_id import as_score, row_field, row_id
from minilm.files.fields import kind_of
from minilm.files.formats import require_file
from minilm.files.rows import is_table, read_lines, read_rows
from minilm.files.source import Source, suffix_of

_QUERY, _DOCUMENT = ("query", "query-id"), ("document", "doc", "corpus-id")
_GRADE = re.compile(r"[+-]?[0-9]{1,9}(?:\.0*)?")
_BEIR_SPLIT = "test"
_T = TypeVar("_T")
_Entry = tuple[int, str, str, object]
"""Line, query, document and value of one row."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The columns of a file: `trec` in order, or by name; the first name of `value` that is present counts."""

    trec: tuple[str, ...]
    value: tuple[str, ...]

    @property
    def expected(self) -> str:
        named = " and ".join([_QUERY[0], _DOCUMENT[0], self.value[0]]).replace(" and ", ", ", 1)
        return f"expected {len(self.trec)} ({' '.join(self.trec)}), or a header that names {named}"


_RUN = _Layout(trec=("query", "Q0", "document", "rank", "score", "tag"), value=("score",))
_JUDGMENTS = _Layout(trec=("query", "iteration", "document", "grade"), value=("grade", "score"))


def read_run(path: Source) -> dict[str, dict[str, float]]:
    """Read the scores of the documents that were found, by query and document; the rank is not used.

    Raises:
        UsageError: the path is missing.
        DataError: the file is empty or damaged, a row cannot be read, a score is not a finite number, or a document
            is repeated; names the line.
        SystemProblem: the file cannot be read.
    """
    return _collect(path, _RUN, as_score)


def read_judgments(path: Source) -> dict[str, dict[str, int]]:
    """Read the grades of the judged documents, by query and document.

    Args:
        path: a file, standard input, or a folder in the layout of BEIR, whose `qrels/test.tsv` is read.

    Raises:
        UsageError: the path is missing, or the folder has no such file.
        DataError: as for `read_run`; a grade is not a whole number.
        SystemProblem: the file cannot be read.
    """
    return _collect(judgments_file(path), _JUDGMENTS, _as_grade)


def judgments_file(path: Source) -> Source:
    """The file with the judgments: the path itself, or `qrels/test.tsv` in a folder of BEIR, optionally .gz.

    Raises:
        UsageError: the folder has no such file.
    """
    if not isinstance(path, Path) or not path.is_dir():
        return path
    folder = path / "qrels" if (path / "qrels").is_dir() else path
    for name in (f"{_BEIR_SPLIT}.tsv", f"{_BEIR_SPLIT}.tsv.gz"):
        if (folder / name).is_file():
            return folder / name
    others = sorted(one.name for one in folder.glob("*.tsv*"))
    fix = f"name one of {', '.join(others)} in {folder}" if others else "name the file with the judgments"
    raise UsageError(f"{path}: a folder without qrels/{_BEIR_SPLIT}.tsv; {fix}")


def judgment_line(path: Path, query: str, document: str | None = None) -> int:
    """The line of the first judgment of a query, or of one of its documents, in a file that has been read before."""
    return next(
        line for line, asked, found, _ in _entries(path, _JUDGMENTS) if asked == query and document in (None, found)
    )


def judgment_location(path: Source, query: str, document: str | None = None) -> str:
    """File and line of such a judgment; standard input, which cannot be read again, has no line."""
    return f"{path}:{judgment_line(path, query, document)}" if isinstance(path, Path) else str(path)


def _as_grade(value: object) -> int:
    """Return a whole number, given as one (also as 1.0) or as its text.

    Raises:
        ValueError: the value is not a whole number of at most nine digits.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"found {kind_of(value)}, expected a whole number as the grade")
    text = str(value)
    if not _GRADE.fullmatch(text.strip()):
        raise ValueError(f"found {text[:20]}, expected a whole number of at most nine digits as the grade")
    return int(float(text))


@dataclass(kw_only=True)
class _Found(Generic[_T]):
    """What was found for one query: the value of each document, and the line of each, in the same order."""

    values: dict[str, _T] = field(default_factory=dict)
    lines: array[int] = field(default_factory=lambda: array("Q"))


def _collect(path: Source, layout: _Layout, parse: Callable[[object], _T]) -> dict[str, dict[str, _T]]:
    found: dict[str, _Found[_T]] = {}
    clash, clashes = "", 0
    for line, query, document, value in _entries(path, layout):
        own = found.setdefault(query, _Found())
        if not query or not document:
            raise DataError(
                f"{path}:{line}: the id of the {'document' if query else 'query'} is empty; correct the row"
            )
        if document in own.values:
            if not clash:
                earlier = own.lines[list(own.values).index(document)]
                clash = f"{path}:{line}: document {document!r} of query {query!r} is already in {path}:{earlier}"
            clashes += 1
            continue
        try:
            own.values[document] = parse(value)
        except ValueError as error:
            raise DataError(f"{path}:{line}: query {query!r}, document {document!r}: {error}") from None
        own.lines.append(line)
    if clash:
        raise DataError(f"{clash} ({clashes:,} repeated in all); keep one of each")
    if not found:
        raise DataError(f"{path}: the file is empty; expected at least one query with a document")
    return {query: own.values for query, own in found.items()}


def _entries(path: Source, layout: _Layout) -> Iterator[_Entry]:
    """Yield the rows in file order; those of text have strings as values."""
    require_file(path)
    if is_table(path) and suffix_of(path) != ".tsv":
        for row in read_rows(path):
            location = f"{path}:{row.line}"
            value = row_field(location, row.values, layout.value)
            yield row.line, row_id(location, row.values, _QUERY), row_id(location, row.values, _DOCUMENT), value
        return
    lines = ((number, text) for number, text in read_lines(path) if text.strip())
    first = next(lines, None)
    if first is None:
        return
    columns = _header(first[1], layout)
    if columns is None:
        yield _trec_entry(path, first, layout)
        yield from (_trec_entry(path, one, layout) for one in lines)
        return
    width = len(first[1].split("\t"))
    for number, text in lines:
        cells = text.split("\t")
        if len(cells) != width:
            raise DataError(f"{path}:{number}: found {len(cells)} columns, expected {width} as in the header")
        query, document, value = (cells[column] for column in columns)
        yield number, query, document, value


def _header(text: str, layout: _Layout) -> Sequence[int] | None:
    """The columns of query, document and value if the first line of a text names them, separated by tabs; else None."""
    cells = text.split("\t")
    found = [
        next((cells.index(name) for name in names if name in cells), None)
        for names in (_QUERY, _DOCUMENT, layout.value)
    ]
    return None if None in found else [column for column in found if column is not None]


def _trec_entry(path: Source, numbered: tuple[int, str], layout: _Layout) -> _Entry:
    number, text = numbered
    cells = text.split()
    if len(cells) != len(layout.trec):
        raise DataError(f"{path}:{number}: found {len(cells)} columns, {layout.expected}; correct the row")
    named = dict(zip(layout.trec, cells, strict=True))
    return number, named["query"], named["document"], named[layout.value[0]]
