"""Write rows in the format that the name of a file says.

In: rows with the same keys, chunk by chunk. Out: .jsonl (one object per line), .csv, .tsv or .parquet.
In a table an object becomes a column per key, such as `scores.good`; a list is JSON in .csv and .tsv. A .tsv file has
no quoting, as in `rows.py`: a tab or line break in a cell is written as a space, and counted.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from minilm.errors import UsageError
from minilm.files.atomic import writing_aside
from minilm.tally import reporting_tally

Row = Mapping[str, object]
Write = Callable[[Sequence[Row]], None]

TEXT_SUFFIX = ".txt"
"""Suffix of files with one text per line, which some commands write besides rows."""
_HEADER = ("id", "prediction")  # of a table without rows
_BREAKS = str.maketrans("\t\n\r", "   ")
_SPACED = "cells had a tab or line break, which .tsv cannot hold, and were written with a space (use .csv)"


def require_suffix(path: Path, known: Sequence[str], *, option: str) -> None:
    """Raise UsageError unless the name of a file ends in one of several suffixes, and is not that of a folder.

    The file that is written in the end would not replace a folder.
    """
    if path.suffix.lower() not in known:
        ends = " or ".join(", ".join(part) for part in (known[:-1], known[-1:]) if part)
        raise UsageError(f"{option} is {path}; expected a name that ends in {ends}")
    if path.is_dir():
        raise UsageError(f"{option} is {path}, which is a folder; name a file in it")


@contextmanager
def writing_rows(path: Path) -> Iterator[Write]:
    """Yield a function that writes rows to a file, which appears when the block succeeds.

    Raises:
        SystemProblem: the file cannot be written.
    """
    with writing_aside(path) as file, _WRITERS[path.suffix.lower()](file) as write:
        yield write


@contextmanager
def json_lines(file: BinaryIO) -> Iterator[Write]:
    """Yield a function that writes rows to an open file as one JSON object per line, at once."""

    def write(rows: Sequence[Row]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.write(_utf8(lines))  # in JSON, a lone surrogate becomes its original escape
        file.flush()

    yield write


@contextmanager
def _cells(file: BinaryIO, *, delimiter: str, quoted: bool) -> Iterator[Write]:
    columns: Sequence[str] = ()
    with reporting_tally() as tally:

        def line(cells: Sequence[str]) -> bytes:
            if not quoted:
                spaced = [cell.translate(_BREAKS) for cell in cells]
                tally.add(_SPACED, [], count=sum(map(str.__ne__, cells, spaced)))
                return _utf8(delimiter.join(spaced) + "\n")
            text = io.StringIO()
            csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow(cells)
            return _utf8(text.getvalue())

        def write(rows: Sequence[Row]) -> None:
            nonlocal columns
            for flat in map(_flat, rows):
                if not columns:
                    columns = tuple(flat)
                    file.write(line(columns))
                file.write(line([_cell(flat[name]) for name in columns]))

        yield write
        if not columns:
            file.write(line(_HEADER))


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Write]:
    """The types of the columns are known only at the end: a chunk may have only nulls or empty lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: list[pa.Table] = []

    def write(rows: Sequence[Row]) -> None:
        tables.append(pa.Table.from_pylist([{name: _plain(one) for name, one in _flat(row).items()} for row in rows]))

    yield write
    empty = pa.table({name: pa.array([], pa.string()) for name in _HEADER})
    pq.write_table(pa.concat_tables(tables, promote_options="permissive") if tables else empty, file)


_WRITERS: Mapping[str, Callable[[BinaryIO], AbstractContextManager[Write]]] = {
    ".jsonl": json_lines,
    ".csv": partial(_cells, delimiter=",", quoted=True),
    ".tsv": partial(_cells, delimiter="\t", quoted=False),
    ".parquet": _parquet,
}
ROW_SUFFIXES = tuple(_WRITERS)
"""Suffixes of files of rows."""


def _flat(row: Row) -> dict[str, object]:
    """The row with a column for each key of an object."""
    flat: dict[str, object] = {}
    for name, value in row.items():
        flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(value: object) -> object:
    return _utf8(value).decode() if isinstance(value, str) else value


def _utf8(text: str) -> bytes:
    """UTF-8, with the escape of a lone surrogate, which has no encoding."""
    return text.encode(errors="backslashreplace")
