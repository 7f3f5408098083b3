"""Read texts that are matched by position: the n-th prediction with the n-th reference.

In: a text file with one item per line, or rows (.jsonl, .json with one object per line, .csv, .tsv, .parquet) with the
item in a column; all but .parquet optionally .gz. Any other suffix is a text file: the original's outputs end in
`.test`.
Out: the items in order, with their locations. Empty lines are items too; an unreadable line is a `DataError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minilm.errors import DataError
from minilm.files.fields import as_text, no_field
from minilm.files.formats import require_file
from minilm.files.rows import is_table, read_lines, read_rows
from minilm.files.source import Source


@dataclass(frozen=True, kw_only=True)
class AlignedTexts:
    """The items of one file, B of them.

    Attributes:
        path: the file, or standard input.
        texts: the texts of each item, at least one; several only if requested.
        lines: the line (or row) of each item, from 1.
    """

    path: Source
    texts: Sequence[tuple[str, ...]]
    lines: Sequence[int]

    def empty_finding(self, what: str) -> str:
        """One sentence about the items without any text; "" if there are none."""
        empty = [line for line, texts in zip(self.lines, self.texts, strict=True) if not any(map(str.strip, texts))]
        if not empty:
            return ""
        share = f"{len(empty):,} of {len(self.texts):,} {what}"
        return f"{share} are empty and match nothing (first: {self.path}:{empty[0]})"


def read_aligned(path: Source, *, fields: Sequence[str], several: bool = False) -> AlignedTexts:
    """Read the items of a file, in order.

    Args:
        path: the file, or standard input.
        fields: possible names of the column; in each row the first one present counts. Not used for text files.
        several: a row may have a list of texts.

    Returns:
        The items, at least one.

    Raises:
        UsageError: the path is missing or is not a file.
        DataError: the file is empty or damaged, or a line cannot be read or has no text; names the line.
        SystemProblem: the file cannot be read.
    """
    require_file(path)
    if is_table(path):
        items = list(_row_items(path, fields, several=several))
    else:
        items = [(number, (text,)) for number, text in read_lines(path)]
    if not items:
        raise DataError(f"{path}: the file is empty; expected at least one text")
    return AlignedTexts(path=path, texts=[texts for _, texts in items], lines=[number for number, _ in items])


def _row_items(path: Source, fields: Sequence[str], *, several: bool) -> Iterator[tuple[int, tuple[str, ...]]]:
    for row in read_rows(path):
        location = f"{path}:{row.line}"
        name = next((name for name in fields if name in row.values), None)
        if name is None:
            raise DataError(f"{location}: {no_field(fields, row.values, fix='add the field or correct its name')}")
        try:
            yield row.line, _texts(row.values[name], several=several)
        except ValueError as error:
            raise DataError(f"{location}: field {name!r}: {error}{' or a list of them' if several else ''}") from None


def _texts(value: object, *, several: bool) -> tuple[str, ...]:
    if several and isinstance(value, list):
        if not value:
            raise ValueError("found an empty list, expected a string")
        return tuple(map(as_text, value))
    return (as_text(value),)
