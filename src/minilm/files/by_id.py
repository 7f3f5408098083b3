"""Read values by id: predictions, labels, no-answer scores.

In: .json (one object, id to value), or rows with an id and a value: .jsonl, .csv, .tsv, each optionally .gz, .parquet,
or standard input; a .json file with one object per line is read as .jsonl. Where ids may be missing, also text with one
value per line.
Out: values by id, in file order. Nothing is skipped: anything unreadable is a `DataError` with its location.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from minilm.errors import DataError
from minilm.files.fields import kind_of, no_field
from minilm.files.formats import read_file, require_file, require_kind
from minilm.files.regular import decode
from minilm.files.rows import is_table, read_lines, read_rows
from minilm.files.source import Source, suffix_of

logger = logging.getLogger(__name__)

ID_FIELDS = ("id", "idx")
_JSON = (".json", ".jsonl")
_UNTYPED = (".csv", ".tsv")  # every cell is a text
_TABLES = (*_UNTYPED, ".parquet")
_T = TypeVar("_T")
_Pairs = tuple[tuple[str, object], ...]
_LARGEST = 1e308


@dataclass(frozen=True, kw_only=True)
class _Entry(Generic[_T]):
    """One value, its id, or its number from 0 if it has none, and its location."""

    location: str
    id: str
    has_id: bool
    value: _T


def read_by_id(
    path: Source,
    parse: Callable[[object], _T],
    *,
    fields: Sequence[str],
    id_fields: Sequence[str] = ID_FIELDS,
    allow_equal_repeats: bool = False,
) -> dict[str, _T]:
    """Read one value per id.

    Args:
        path: .json (`{id: value}`) or rows with an id and a value.
        parse: checks and converts a JSON value; its ValueError is reported with the location. A cell of a .csv or .tsv
            file that it does not accept as text is read as JSON: a number, or a list.
        fields: possible names of the value in a row; the first one present counts.
        id_fields: the same for the id, which is a string or a whole number.
        allow_equal_repeats: an id may be repeated with an equal value; logged once as a warning.

    Returns:
        Parsed values by id, in file order; never empty.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, an id is repeated, or the file has no values.
        SystemProblem: the file cannot be read.
    """
    entries = _entries(path, parse, _pairs(path, fields, id_fields, optional_id=False))
    return _collect(path, entries, allow_equal_repeats=allow_equal_repeats)


@dataclass(frozen=True, kw_only=True)
class ValuesInOrder(Generic[_T]):
    """The values of a file in order, at least one, and their ids, all different; None if it has no ids."""

    values: Sequence[_T]
    ids: Sequence[str] | None


def read_in_order(
    path: Source, parse: Callable[[object], _T], *, fields: Sequence[str], id_fields: Sequence[str]
) -> ValuesInOrder[_T]:
    """Read values that may lack ids.

    Args:
        path: as for `read_by_id`; a file of any other kind is text with one value per line.
        parse: as for `read_by_id`, also for lines of text.
        fields: as for `read_by_id`.
        id_fields: the same; if the first row has none of them, the file has no ids.

    Raises:
        UsageError, DataError, SystemProblem: as for `read_by_id`.
    """
    entries = list(_entries(path, parse, _pairs(path, fields, id_fields, optional_id=True)))
    values = _collect(path, entries, allow_equal_repeats=False)
    return ValuesInOrder(values=list(values.values()), ids=list(values) if entries[0].has_id else None)


def _entries(
    path: Source, parse: Callable[[object], _T], pairs: Iterable[tuple[str, str | None, object]]
) -> Iterator[_Entry[_T]]:
    from_cell = parse if suffix_of(path) in (*_JSON, ".parquet") else _from_cell(parse)
    for number, (location, key, value) in enumerate(pairs):
        try:
            parsed = from_cell(value)
        except ValueError as error:
            raise DataError(f"{location}: {'' if key is None else f'id {_short(key)}: '}{error}") from None
        yield _Entry(location=location, id=str(number) if key is None else key, has_id=key is not None, value=parsed)


def _pairs(
    path: Source, fields: Sequence[str], id_fields: Sequence[str], *, optional_id: bool
) -> Iterator[tuple[str, str | None, object]]:
    """Yield (location, id, value) in file order; if the id is optional and the first row has none, all are None."""
    if suffix_of(path) in _JSON:
        text, by_line = read_json_text(path)
        if not by_line:
            yield from _document_pairs(path, text)
            return
        rows = _rows(path, text)
    elif optional_id and not is_table(path):
        require_file(path)
        rows = ((f"{path}:{line}", {fields[0]: text}) for line, text in read_lines(path))
    else:
        require_kind(path, (*_JSON, *_TABLES))
        rows = _table_rows(path)
    has_ids = True
    for number, (location, row) in enumerate(rows):
        if optional_id and number == 0:
            has_ids = isinstance(row, Mapping) and any(name in row for name in id_fields)
        yield location, row_id(location, row, id_fields) if has_ids else None, row_field(location, row, fields)


def _table_rows(path: Source) -> Iterator[tuple[str, object]]:
    """Yield (file:line, row) of a table."""
    for row in read_rows(path):
        location = f"{path}:{row.line}"
        row.require_fit(location)
        yield location, row.values


def _from_cell(parse: Callable[[object], _T]) -> Callable[[object], _T]:
    """The same for cells: what is not accepted as text is parsed as the JSON value that it spells."""

    def parse_cell(text: object) -> _T:
        try:
            return parse(text)
        except ValueError:
            try:
                value = json.loads(str(text))
            except (ValueError, RecursionError):
                value = text
            if isinstance(value, str):
                raise
            return parse(value)

    return parse_cell


def as_number(value: object) -> float:
    """Return a finite JSON number.

    Raises:
        ValueError: the value is not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"found {kind_of(value)}, expected a number")
    if not abs(value) < _LARGEST:  # also false for NaN
        raise ValueError(f"found {str(value)[:20]}, expected a finite number")
    return float(value)


def as_score(value: object) -> float:
    """Return a finite number, given as one or as its text.

    Raises:
        ValueError: the value is not a finite number.
    """
    if not isinstance(value, str):
        return as_number(value)
    try:
        number = float(value.replace("_", "?"))  # Python also reads 1_000
    except ValueError:
        raise ValueError(f"found {value[:20]!r}, expected a number") from None
    return as_number(number)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _collect(path: Source, entries: Iterable[_Entry[_T]], *, allow_equal_repeats: bool) -> dict[str, _T]:
    """Collect values by id; a repeated id is an error unless equal values are allowed."""
    kept: dict[str, _Entry[_T]] = {}
    equal: list[_Entry[_T]] = []
    clashes: list[_Entry[_T]] = []
    for one in entries:
        if one.id not in kept:
            kept[one.id] = one
        elif allow_equal_repeats and kept[one.id].value == one.value:
            equal.append(one)
        else:
            clashes.append(one)
    if clashes:
        one = clashes[0]
        raise DataError(
            f"{one.location}: id {_short(one.id)} is already in {kept[one.id].location}"
            f"{' with another value' if allow_equal_repeats else ''} ({len(clashes):,} repeated ids in all); "
            f"keep one of each"
        )
    if not kept:
        raise DataError(f"{path}: the file is empty; expected at least one id with its value")
    if equal:
        logger.warning(
            "%s: %d repeated ids with equal values count once (first: %s, also in %s)",
            equal[0].location,
            len(equal),
            _short(equal[0].id),
            kept[equal[0].id].location,
        )
    return {key: one.value for key, one in kept.items()}


def read_json_text(path: Source) -> tuple[str, bool]:
    """Return the text of a .json or .jsonl source, and whether it has one JSON object per line.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: the file is not UTF-8; names the line.
        SystemProblem: the file cannot be read.
    """
    require_kind(path, _JSON)
    text = decode(read_file(path), path)
    return text, suffix_of(path) == ".jsonl" or _continues_after_an_object(text)


def _continues_after_an_object(text: str) -> bool:
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _parse(
    location: str, text: str, *, line: int = 1, hook: Callable[[list[tuple[str, object]]], _Pairs] | None = None
) -> object:
    try:
        return json.loads(text, object_pairs_hook=hook)
    except json.JSONDecodeError as error:
        what = f"broken JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
        raise DataError(f"{location}:{line + error.lineno - 1}: {what}; write the file again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}:{line}: unreadable JSON ({str(error)[:80]})") from None


def _rows(path: Source, text: str) -> Iterator[tuple[str, object]]:
    """Yield (file:line, JSON value) of every line that is not blank."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", _parse(str(path), line, line=number)


def _document_pairs(path: Source, text: str) -> Iterator[tuple[str, str, object]]:
    """Yield (file, id, value) of one JSON object, parsed as pairs because a dict would hide repeated ids."""
    if not text.strip():
        return
    document = _parse(str(path), text, hook=tuple)
    if not isinstance(document, tuple):
        raise DataError(f"{path}: found {kind_of(document)}, expected one object, id to value, or one object per line")
    for key, value in document:
        yield str(path), key, value


def row_field(location: str, row: object, names: Sequence[str]) -> object:
    """Return the value of the first of these fields that the row has."""
    if not isinstance(row, Mapping):
        raise DataError(f"{location}: found {kind_of(row)}, expected an object with {' or '.join(map(repr, names))}")
    for name in names:
        if name in row:
            return row[name]
    raise DataError(f"{location}: {no_field(names, row, fix='add the field or correct its name')}")


def row_id(location: str, row: object, names: Sequence[str]) -> str:
    """Return the id of a row, from the first of these fields that it has; a whole number becomes its digits."""
    value = row_field(location, row, names)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{location}: the id is {kind_of(value)}, expected a string or a whole number")
    return str(value)
