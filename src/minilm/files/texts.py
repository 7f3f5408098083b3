"""Texts for training: a stream of the non-empty texts of files, bad rows skipped and counted.

In: .txt, .jsonl, .json, .csv, .tsv (each optionally .gz) or .parquet files, or standard input; the name of the column.
Out: texts in file order; a tally of what was skipped, with its locations. `formats.py` reads the formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from minilm.errors import DataError
from minilm.files.fields import as_text, no_field
from minilm.files.formats import (
    ROW_READERS,
    ByteMeter,
    OpenFile,
    RowReader,
    Rows,
    damage_is_data_error,
    opened,
    reader_for,
    text_lines,
    tsv_cells,
    wrong_width,
)
from minilm.files.source import Source
from minilm.tally import Tally

BAD_ROWS, EMPTY_TEXTS = "bad rows were skipped", "empty texts were skipped"
EMPTY_FILES = "input files have no text"
"""What `read_texts` adds to a tally."""
_NAME_IT = "change the field name to that of the text (--field, or data.field in a recipe)"
_FIRST_ROWS = 100  # bad ones that `has_text` looks at


def read_texts(
    paths: Sequence[Source], *, field: str = "text", max_bad_rows: float, tally: Tally, meter: ByteMeter | None = None
) -> Iterator[str]:
    """Yield the non-empty texts of the files, in order.

    All paths are checked before the first text is read. In .txt every non-blank line is one text; in the
    other formats the text is the value of `field`. `meter` is advanced while files are read; `tally` collects
    what was skipped. After the last row, `max_bad_rows` is the max share of all rows that may be bad.

    Raises:
        UsageError: a path is missing, is not a file, or has an unknown suffix.
        DataError: a file is damaged, a file with a header has no such column, or too many rows are bad.
        SystemProblem: a file cannot be read.
    """
    checked = [(path, reader_for(path, TEXT_READERS)) for path in paths]
    texts = _read_all(checked, field=field, tally=tally, meter=meter or ByteMeter())
    return _with_few_bad_rows(texts, max_share=max_bad_rows, tally=tally)


def _with_few_bad_rows(texts: Iterator[str], *, max_share: float, tally: Tally) -> Iterator[str]:
    """The texts; then DataError if more than a share of all rows (texts, empty texts, bad rows) was bad."""
    bad_before, empty_before, rows = tally[BAD_ROWS].count, tally[EMPTY_TEXTS].count, 0
    for text in texts:
        rows += 1
        yield text
    bad = tally[BAD_ROWS].count - bad_before
    rows += bad + tally[EMPTY_TEXTS].count - empty_before
    if bad > max_share * rows:
        raise DataError(
            f"{bad:,} of {rows:,} rows are bad, expected at most {max_share:.4g} of all rows (first: "
            f"{tally[BAD_ROWS].first[0]}); correct them, or raise the max share (--max-bad-rows of corpus build, "
            "data.max_bad_rows of a recipe)"
        )


def has_text(path: Source, *, field: str = "text") -> bool:
    """Whether a file has a text, by its beginning; at most a hundred bad rows are looked at.

    Raises:
        UsageError: as for `read_texts`.
        DataError: the file is damaged, has no such column, or only bad rows at its beginning.
        SystemProblem: the file cannot be read.
    """
    reader, bad = reader_for(path, TEXT_READERS), _FirstBadRows()
    with suppress(_NoText):
        for _ in _read_all([(path, reader)], field=field, tally=bad, meter=ByteMeter()):
            return True
    found = bad[BAD_ROWS]
    if found.count:
        raise DataError(f"no text found at the beginning of {path}, only bad rows (first: {found.first[0]})")
    return False


class _NoText(Exception):  # not an error yet: enough rows have been looked at
    """Ends the search for a first text."""


class _FirstBadRows(Tally):
    """A tally that ends the search after a hundred bad rows."""

    def add(self, what: str, locations: Sequence[str], *, of: int = 0, count: int | None = None) -> None:
        super().add(what, locations, of=of, count=count)
        if self[BAD_ROWS].count >= _FIRST_ROWS:
            raise _NoText


def _read_all(
    files: Sequence[tuple[Source, RowReader]], *, field: str, tally: Tally, meter: ByteMeter
) -> Iterator[str]:
    for path, reader in files:
        with damage_is_data_error(path), opened(path, meter) as stream:
            report = partial(_add_bad_row, tally, path)
            source = OpenFile(path=path, stream=stream, report=report, meter=meter, field=field)
            has_text = False
            for line, row in reader(source):
                try:
                    text = _text(row, field)
                except ValueError as error:
                    report(line, str(error))
                    continue
                if text.strip():
                    has_text = True
                    yield text
                else:
                    tally.add(EMPTY_TEXTS, [f"{path}:{line}"])
            if len(files) > 1:  # else it is for the caller to say
                tally.add(EMPTY_FILES, [] if has_text else [str(path)], of=1)


def _add_bad_row(tally: Tally, path: Source, line: int, reason: str) -> None:
    tally.add(BAD_ROWS, [f"{path}:{line}: {reason}"])


def _text(row: Mapping[str, object], field: str) -> str:
    if field not in row:
        raise ValueError(no_field([field], row, fix=f"correct the row, or {_NAME_IT}"))
    return as_text(row[field], f"field {field!r} is")


def _txt_rows(source: OpenFile) -> Rows:
    for number, line in text_lines(source):
        yield number, {source.field or "text": line}


def _tsv_rows(source: OpenFile) -> Rows:
    for number, header, cells in tsv_cells(source):
        if len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        else:
            source.report(number, wrong_width(header, cells))


TEXT_READERS: Mapping[str, RowReader] = {".txt": _txt_rows, **ROW_READERS, ".tsv": _tsv_rows}
"""Formats that hold texts."""
