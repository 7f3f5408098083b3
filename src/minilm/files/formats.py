"""File formats: how each one is read, row by row.

In: .txt, .jsonl, .json (one object per line, or one array of objects), .csv, .tsv (each optionally .gz) or .parquet
files, or standard input.
Out: rows in file order; memory grows only with an array. A bad row (broken JSON, invalid UTF-8, wrong number of
columns, ...) goes to the caller: `texts.py` skips and counts it, `rows.py` raises `DataError`. A damaged file
(truncated .gz, broken parquet) is a `DataError`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, cast, get_args

from minilm.errors import DataError, SystemProblem, UsageError, one_line
from minilm.files.fields import kind_of
from minilm.files.json import DuplicateKeyError, unique_keys
from minilm.files.regular import POINTER, pointer_problem, reject_pointer, reject_utf16
from minilm.files.source import InputFormat, Source, StandardInput, suffix_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE_BYTES = 64 * 2**20
"""A longer line (or CSV cell) is a bad row: it is probably not text, and it would have to fit in memory."""

_PARQUET_ROWS = 128
_BUFFER_BYTES = 2**20
_RAW_BYTES = 2**16
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f"
_SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas"}
_JSON = json.JSONDecoder(object_pairs_hook=unique_keys)
_ARRAY = re.compile(r"\s*\[\s*(\{|$)")


@dataclass(kw_only=True)
class ByteMeter:
    """Number of bytes of the input files (as on disk) read so far."""

    done: int = 0


@dataclass(frozen=True, kw_only=True)
class OpenFile:
    """An open file, and where its bad rows are reported.

    Attributes:
        path: its path, or standard input, for messages.
        stream: its bytes, decompressed.
        report: called with the location (line or row, from 1) of a bad row and the reason.
        meter: advanced while the file is read.
        field: the only column to read; None for all.
    """

    path: Source
    stream: IO[bytes]
    report: Callable[[int, str], None]
    meter: ByteMeter
    field: str | None = None


Rows = Iterator[tuple[int, Mapping[str, object]]]
"""(1-based line or row, value by column) of every row that can be read."""
RowReader = Callable[[OpenFile], Rows]
_Reader = TypeVar("_Reader")


def read_file(path: Source) -> bytes:
    """Return all bytes of a file or standard input, decompressed when its name ends in .gz, without a byte order mark.

    Raises:
        UsageError: the path is missing or is not a file.
        DataError: the .gz file is damaged.
        SystemProblem: the file cannot be read.
    """
    require_file(path)
    with damage_is_data_error(path), opened(path, ByteMeter()) as stream:
        return stream.read().removeprefix(_BOM)


def reader_for(path: Source, readers: Mapping[str, _Reader]) -> _Reader:
    """Choose a reader by the suffix, ignoring a final .gz.

    Raises:
        UsageError, DataError: as for `require_kind`.
    """
    require_kind(path, readers)
    return readers[suffix_of(path)]


def require_kind(path: Source, suffixes: Collection[str]) -> None:
    """Require a file with one of the suffixes, ignoring a final .gz.

    Raises:
        UsageError: the path is missing, is not a file, or has an unknown suffix.
        DataError: as for `require_file`.
    """
    is_known = suffix_of(path) in suffixes
    if not is_known and isinstance(path, StandardInput):
        known = [name for name in get_args(InputFormat) if StandardInput(name).suffix in suffixes]
        raise UsageError(f"--input-format {path.format} is not read here; expected {' or '.join(known)}")
    if not is_known:
        raise UsageError(
            f"{path}: unknown kind of file; expected {', '.join(suffixes)}, each (but .parquet) optionally with .gz"
        )
    if isinstance(path, Path) and path.name.lower().endswith(".parquet.gz"):
        raise UsageError(f"{path}: a parquet file is already compressed and is not read as .gz; unpack it with gunzip")
    require_file(path)


def require_file(path: Source) -> None:
    """Raise UsageError if the path is missing or is not a file, DataError if it is a Git LFS pointer."""
    if isinstance(path, StandardInput):
        return
    if not path.exists():
        raise UsageError(f"{path}: no such file; check the input path")
    if path.is_dir():
        raise UsageError(f"{path}: not a file; pass the files in it, for example {path}/*.jsonl")
    if not path.is_file():
        raise UsageError(f"{path}: not a regular file; save its contents to a file and pass that")
    reject_pointer(path)


@contextmanager
def damage_is_data_error(path: Source) -> Iterator[None]:
    """Turn errors from a damaged .gz file into DataError, and other read errors into SystemProblem."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the .gz file is damaged or truncated ({error}); fetch or write it again") from error
    except OSError as error:
        raise SystemProblem(
            f"{path}: cannot be read ({error.strerror or error}); check the disk and the file's permissions"
        ) from error


class _MeteredFile(io.RawIOBase):
    """A raw file that adds every byte read from it to the meter."""

    def __init__(self, path: Path, meter: ByteMeter) -> None:
        self._file = path.open("rb", buffering=0)
        self._meter = meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = self._file.readinto(buffer) or 0
        self._meter.done += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def opened(path: Source, meter: ByteMeter) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes; .gz is decompressed; parquet, which needs seeking, is a plain file."""
    if isinstance(path, StandardInput):
        with _opened_standard_input() as stream:
            yield stream
        return
    name = path.name.lower()
    if name.endswith(".parquet"):
        with path.open("rb") as file:
            yield file
        return
    with io.BufferedReader(_MeteredFile(path, meter), _RAW_BYTES) as raw:
        if not name.endswith(".gz"):
            yield raw
            return
        if not raw.peek(1):
            raise EOFError("the file is empty")
        with _decompressed(raw) as stream:
            yield stream


@contextmanager
def _opened_standard_input() -> Iterator[IO[bytes]]:
    """Open standard input for reading bytes; .gz, detected by its first byte, is decompressed.

    Raises:
        DataError: it is a Git LFS pointer.
    """
    raw = cast("io.BufferedReader", sys.stdin.buffer)
    if raw.peek(1).startswith(POINTER):
        raise DataError(pointer_problem(raw.read(), StandardInput()))
    if raw.peek(1)[:1] != _GZIP:
        yield raw
        return
    with _decompressed(raw) as stream:
        yield stream


@contextmanager
def _decompressed(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    with gzip.GzipFile(fileobj=raw) as plain, io.BufferedReader(plain, _BUFFER_BYTES) as stream:
        yield stream


def lines(source: OpenFile) -> Iterator[tuple[int, bytes]]:
    """Yield (1-based number, line with its end); an overlong line is a bad row and is not kept in memory."""
    number = 0
    while line := source.stream.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1:
            reject_utf16(line, source.path)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            source.report(number, f"line longer than {MAX_LINE_BYTES} bytes")
            while line and not line.endswith(b"\n"):
                line = source.stream.readline(MAX_LINE_BYTES)
            continue
        yield number, line.removeprefix(_BOM) if number == 1 else line


def text_lines(source: OpenFile) -> Iterator[tuple[int, str]]:
    """Yield (1-based number, text without its end) of every line that is not blank; broken UTF-8 is a bad row."""
    for number, line in lines(source):
        stripped = line.rstrip(b"\r\n")
        if not stripped.strip():
            continue
        try:
            yield number, stripped.decode()
        except UnicodeDecodeError as error:
            source.report(number, f"invalid UTF-8 at byte {error.start + 1} of the line")


def _json_rows(source: OpenFile) -> Rows:
    """Objects, one per line; if the file begins with `[` and an object, those of one array, numbered from 1."""
    numbered = text_lines(source)
    first = next(numbered, None)
    if first is None:
        return
    if not _ARRAY.match(first[1]):
        yield from _object_lines(source, chain([first], numbered))
        return
    text = "\n".join(line for _, line in chain([first], numbered))
    try:
        items = _JSON.decode(text)
    except DuplicateKeyError as error:
        raise DataError(f"{source.path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source.path}: it begins with '[', but is not one JSON array ({error}); write the array again, or one "
            f"object per line"
        ) from None
    for number, item in enumerate(items, 1):
        if isinstance(item, dict):
            yield number, item
        else:
            source.report(number, f"item {number} is {kind_of(item)}, expected an object")


def _object_lines(source: OpenFile, numbered: Iterator[tuple[int, str]]) -> Rows:
    for number, line in numbered:
        try:
            row = _JSON.decode(line)
        except json.JSONDecodeError as error:
            source.report(number, f"broken JSON ({error.msg.removesuffix(' at')} at column {error.colno})")
        except (ValueError, RecursionError) as error:
            source.report(number, str(error))
        else:
            if isinstance(row, dict):
                yield number, row
            else:
                source.report(number, f"found {kind_of(row)}, expected one object per line")


def _csv_rows(source: OpenFile) -> Rows:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    last_line = 0

    def decoded() -> Iterator[str]:
        nonlocal last_line
        for number, line in lines(source):
            last_line = number
            yield line.decode(errors="surrogateescape")  # invalid bytes are detected later, in the parsed row

    rows = csv.reader(decoded(), strict=True)
    header = next(_csv_cells(source, rows, lambda: last_line), (0, []))[1]
    wanted = [source.field] if source.field is not None else header
    _require_separator(source, header, expected="commas")
    _require_unique(source, header, wanted, "in the CSV header")
    for line, cells in _csv_cells(source, rows, lambda: last_line):
        if len(cells) != len(header):
            source.report(line, wrong_width(header, cells))
            continue
        row = dict(zip(header, cells, strict=True))
        broken = next((name for name in wanted if not _is_unicode(row[name])), None)
        if broken is not None:
            source.report(line, f"invalid UTF-8 in column {broken!r}")
        else:
            yield line, row


def tsv_cells(source: OpenFile, *, unnamed: Sequence[str] = ()) -> Iterator[tuple[int, Sequence[str], list[str]]]:
    """Yield (line, header, cells) of every row of a .tsv file, which has no quoting; the numbers of cells may differ.

    Without a header the columns have the names `unnamed`; if the first line contains one of them, it is a header.
    """
    lines: Iterator[tuple[int, list[str]]] = ((number, line.split("\t")) for number, line in text_lines(source))
    first = next(lines, None)
    if first is None:
        return
    header: Sequence[str] = first[1]
    if unnamed and not set(unnamed) & set(header):
        header, lines = unnamed, chain([first], lines)
    _require_separator(source, header, expected="tabs")
    _require_unique(source, header, header if source.field is None else [source.field], "in the header")
    for number, cells in lines:
        yield number, header, cells


def wrong_width(header: Sequence[str], cells: Sequence[str]) -> str:
    """Say that a row has more or fewer cells than the header."""
    return f"{len(cells)} columns, expected {len(header)}"


def _require_separator(source: OpenFile, header: Sequence[str], *, expected: str) -> None:
    """Raise DataError if the only column of a table looks like several with another separator."""
    found = next((name for sign, name in _SEPARATORS.items() if sign in "".join(header)), expected)
    if len(header) == 1 and found != expected and source.field not in header:
        raise DataError(f"{source.path}:1: the columns are separated by {found}; save the file with {expected}")


def _require_unique(source: OpenFile, names: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise DataError unless each name in `wanted` occurs exactly once among the column names."""
    for name in wanted:
        if names.count(name) != 1:
            found = ", ".join(map(repr, names[:20])) or "an empty file"
            fix = (
                "change the field name to that of the text column (--field, or data.field in a recipe)"
                if source.field
                else "rename one of them"
            )
            raise DataError(f"{source.path}:1: expected one column named {name!r} {where}, found {found}; {fix}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv_cells(
    source: OpenFile, rows: Iterator[list[str]], last_line: Callable[[], int]
) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every non-blank row; a row that the csv module cannot parse is a bad row."""
    while True:
        first = last_line() + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            source.report(first, f"broken CSV ({error})")
            continue
        if row:
            yield first, row


def _parquet_rows(source: OpenFile) -> Rows:
    import pyarrow as pa

    try:
        yield from _checked_parquet_rows(source)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{source.path}: not a readable parquet file ({one_line(error)}); fetch or write it again"
        ) from error


def _checked_parquet_rows(source: OpenFile) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert isinstance(source.path, Path)
    size, start = source.path.stat().st_size, source.meter.done
    file = pq.ParquetFile(source.stream)
    schema = file.schema_arrow
    columns = None if source.field is None else [source.field]
    _require_unique(source, schema.names, columns or schema.names, "in the schema")
    num_rows, row = file.metadata.num_rows, 0
    for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns, use_threads=False):
        for values in zip(*batch.columns, strict=True):
            row += 1
            try:
                yield row, {name: _plain(value.as_py()) for name, value in zip(batch.schema.names, values, strict=True)}
            except UnicodeDecodeError:
                source.report(row, "invalid UTF-8")
        source.meter.done = start + size * row // num_rows
    if row != num_rows:
        raise pa.ArrowInvalid(f"found {row} rows, expected {num_rows}")


def _plain(value: object) -> object:
    """Bytes as text, since files with texts in binary columns are common; other bytes stay as they are."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value  # whoever reads the column reports it


ROW_READERS: Mapping[str, RowReader] = {
    ".jsonl": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
"""Formats whose rows have named columns."""
