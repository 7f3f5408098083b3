"""Read rows with named columns, or plain lines, from a file, one at a time.

In: a .tsv, .jsonl, .json (one object per line, or one array), .csv (each optionally .gz) or .parquet file, or standard
input; UTF-8, with or without BOM.
Out: `Row`s in file order; memory grows only with a JSON array. `formats.py` reads the formats. An unreadable row is a
`DataError`; a .tsv row with too few or too many columns is a `misfit`, which the caller skips or rejects.
A .tsv file has no quoting: a quotation mark is an ordinary character, as in GLUE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

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
    reader_for,
    tsv_cells,
    wrong_width,
)
from minilm.files.source import Source, StandardInput, suffix_of


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

    def text(self, name: str, location: str, *, named_by: str) -> str:
        """The value of a field, a text; arguments and errors as for `text_or_tokens`."""
        value = self.value(name, location, named_by=named_by)
        if not isinstance(value, str):
            raise DataError(f"{location}: {name} is {kind_of(value)}, expected a string; correct the row")
        return value

    def text_or_tokens(self, name: str, location: str, *, named_by: str) -> str | list[str]:
        """The value of a field: a text or a list of tokens.

        Args:
            name: the field.
            location: file and line, for messages.
            named_by: the flags or keys that name fields, for messages.

        Raises:
            DataError: the row or the field cannot be read.
        """
        value = self.value(name, location, named_by=named_by)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(token, str) for token in value):
            return value
        kind = kind_of(value)
        if isinstance(value, list):
            kind = "a list that contains something other than texts"
        raise DataError(f"{location}: field {name!r} is {kind}, expected a text or a list of tokens; correct the row")

    def value(self, name: str, location: str, *, named_by: str) -> object:
        """The value of a field; arguments and errors as for `text_or_tokens`."""
        self.require_fit(location)
        if name not in self.values:
            fix = f"correct the row, or name its fields with {named_by}"
            raise DataError(f"{location}: {no_field([name], self.values, fix=fix)}")
        return self.values[name]


_TableReader = Callable[[OpenFile], Iterator[Row]]


def read_rows(
    path: Source, *, unnamed: Sequence[str] = (), text_column: str | None = None, meter: ByteMeter | None = None
) -> Iterator[Row]:
    """Yield the rows of a file or of standard input.

    Args:
        path: the source; a file is checked before the first row is read.
        unnamed: names for the columns of a .tsv file without a header. If the first line contains one of them,
            that line is a header after all.
        text_column: also read .txt: every line, empty ones too, is a row with this column.
        meter: counts the bytes of the file that have been read.

    Raises:
        UsageError: the path is missing, is not a file, or has an unknown suffix.
        DataError: the file is damaged, or a row cannot be read; names the line.
        SystemProblem: the file cannot be read.
    """
    readers: dict[str, _TableReader] = {
        ".tsv": partial(_tsv_rows, unnamed=unnamed),
        **{suffix: partial(_named_rows, reader) for suffix, reader in ROW_READERS.items()},
    }
    if text_column is not None:
        readers[".txt"] = partial(_line_rows, column=text_column)
    return _rows(path, reader_for(path, readers), meter or ByteMeter())


def is_table(path: Source) -> bool:
    """Whether `read_rows` reads this format."""
    return suffix_of(path) in (".tsv", *ROW_READERS)


def has_cells(path: Source) -> bool:
    """Whether all values of this format are texts, so that a list is a cell that spells it in JSON."""
    return suffix_of(path) in (".tsv", ".csv")


def read_lines(path: Source) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text) of every line of a text file, including empty ones.

    Raises:
        DataError: the file is damaged or not UTF-8; names the line.
        SystemProblem: the file cannot be read.
    """
    for row in _rows(path, partial(_line_rows, column="text"), ByteMeter()):
        yield row.line, str(row.values["text"])


def _rows(path: Source, reader: _TableReader, meter: ByteMeter) -> Iterator[Row]:
    def reject(line: int, reason: str) -> None:
        hint = ", or say its format with --input-format" if isinstance(path, StandardInput) else ""
        raise DataError(f"{path}:{line}: {reason}; correct the row or remove it{hint}")

    with damage_is_data_error(path), opened(path, meter) as stream:
        yield from reader(OpenFile(path=path, stream=stream, report=reject, meter=meter))


def _line_rows(source: OpenFile, *, column: str) -> Iterator[Row]:
    for number, line in lines(source):
        try:
            yield Row(line=number, values={column: line.rstrip(b"\r\n").decode()})
        except UnicodeDecodeError:
            raise DataError(f"{source.path}:{number}: invalid UTF-8; write the file again as UTF-8") from None


def _named_rows(reader: RowReader, source: OpenFile) -> Iterator[Row]:
    for line, values in reader(source):
        yield Row(line=line, values=values)


def _tsv_rows(source: OpenFile, *, unnamed: Sequence[str]) -> Iterator[Row]:
    for number, header, cells in tsv_cells(source, unnamed=unnamed):
        misfit = "" if len(cells) == len(header) else wrong_width(header, cells)
        yield Row(line=number, values=dict(zip(header, cells, strict=False)), misfit=misfit)
