"""Read rows with named columns, or plain lines, from a file, one at a time.

In: a .tsv, .jsonl, .json (one object per line, or one array), .csv (each optionally .gz) or .parquet file;
UTF-8, with or without BOM.
Out: `Row`s in file order; memory grows only with a JSON array. `formats.py` reads the formats. An unreadable row is a
`DataError`; a .tsv row with too few or too many columns is a `misfit`, which the caller skips or rejects.
A .tsv file has no quoting: a quotation mark is an ordinary character, as in GLUE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO

from minilm.errors import DataError
from minilm.files.fields import kind_of, no_field
from minilm.files.formats import (
    ROW_READERS,
    ByteMeter,
    OpenFile,
    RowReader,
    damage_is_data_error,
    lines,
    opened,
    opened_standard_input,
    reader_for,
    require_separator,
    require_unique,
    text_lines,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        line: the line where it begins, or its number in a parquet file; from 1.
        values: by column: strings in .tsv and .csv, any value of the file in the other formats.
        misfit: "", or how a .tsv row differs in length from the header; the cells that are present are in `values`.
    """

    line: int
    values: Mapping[str, object]
    misfit: str = ""

    def require_fit(self, location: str) -> None:
        """Raise DataError for a misfit."""
        if self.misfit:
            raise DataError(f"{location}: {self.misfit} (a text may contain a tab); correct the row")

    def text_or_tokens(self, name: str, location: str, *, named_by: str) -> str | list[str]:
        """The value of a field: a text or a list of tokens.

        Args:
            name: the field.
            location: file and line, for messages.
            named_by: the flags or keys that name fields, for messages.

        Raises:
            DataError: the row or the field cannot be read.
        """
        self.require_fit(location)
        if name not in self.values:
            fix = f"correct the row, or name its fields with {named_by}"
            raise DataError(f"{location}: {no_field([name], self.values, fix=fix)}")
        value = self.values[name]
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(token, str) for token in value):
            return value
        kind = kind_of(value)
        if isinstance(value, list):
            kind = "a list that contains something other than texts"
        raise DataError(f"{location}: field {name!r} is {kind}, expected a text or a list of tokens; correct the row")


STANDARD_INPUT = Path("standard input")
"""Its name in messages."""

_TableReader = Callable[[OpenFile], Iterator[Row]]


def read_rows(path: Path, *, unnamed: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of a file.

    Args:
        path: the file; checked before the first row is read.
        unnamed: names for the columns of a .tsv file without a header. If the first line contains one of them,
            that line is a header after all.

    Raises:
        UsageError: the path is missing, is not a file, or has an unknown suffix.
        DataError: the file is damaged, or a row cannot be read; names the line.
        SystemProblem: the file cannot be read.
    """
    readers: dict[str, _TableReader] = {
        ".tsv": partial(_tsv_rows, unnamed=unnamed),
        **{suffix: partial(_named_rows, reader) for suffix, reader in ROW_READERS.items()},
    }
    return _rows(path, reader_for(path, readers), opened(path, ByteMeter()))


def read_standard_input() -> Iterator[Row]:
    """Yield the rows of standard input: JSON lines, optionally .gz.

    Raises:
        DataError: a row cannot be read; names the line.
        SystemProblem: the stream cannot be read.
    """
    return _rows(STANDARD_INPUT, partial(_named_rows, ROW_READERS[".jsonl"]), opened_standard_input())


def is_table(path: Path) -> bool:
    """Whether `read_rows` reads files of this suffix."""
    return Path(path.name.lower().removesuffix(".gz")).suffix in (".tsv", *ROW_READERS)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text) of every line of a text file, including empty ones.

    Raises:
        DataError: the file is damaged or not UTF-8; names the line.
        SystemProblem: the file cannot be read.
    """

    def reject(line: int, reason: str) -> None:
        raise DataError(f"{path}:{line}: {reason}; correct the line")

    with damage_is_data_error(path), opened(path, ByteMeter()) as stream:
        for number, line in lines(OpenFile(path=path, stream=stream, report=reject, meter=ByteMeter())):
            try:
                yield number, line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError:
                raise DataError(f"{path}:{number}: invalid UTF-8; write the file again as UTF-8") from None


def _rows(path: Path, reader: _TableReader, opening: AbstractContextManager[IO[bytes]]) -> Iterator[Row]:
    def reject(line: int, reason: str) -> None:
        raise DataError(f"{path}:{line}: {reason}; correct the row or remove it")

    with damage_is_data_error(path), opening as stream:
        yield from reader(OpenFile(path=path, stream=stream, report=reject, meter=ByteMeter()))


def _named_rows(reader: RowReader, source: OpenFile) -> Iterator[Row]:
    for line, values in reader(source):
        yield Row(line=line, values=values)


def _tsv_rows(source: OpenFile, *, unnamed: Sequence[str]) -> Iterator[Row]:
    lines: Iterator[tuple[int, list[str]]] = ((number, line.split("\t")) for number, line in text_lines(source))
    first = next(lines, None)
    if first is None:
        return
    header: Sequence[str] = first[1]
    if unnamed and not set(unnamed) & set(header):
        header, lines = unnamed, chain([first], lines)
    require_separator(source, header, expected="tabs")
    require_unique(source, header, header, "in the header")
    for number, cells in lines:
        misfit = "" if len(cells) == len(header) else f"{len(cells)} columns, expected {len(header)}"
        yield Row(line=number, values=dict(zip(header, cells, strict=False)), misfit=misfit)
