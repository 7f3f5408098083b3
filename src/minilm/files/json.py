"""Strict JSON: one object, no duplicate keys, every problem with its line.

In: paths or texts that may be foreign, truncated or hostile; values to write.
Out: checked values, or one `DataError`; files are written atomically.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from minilm.errors import DataError
from minilm.files.atomic import atomic_write
from minilm.files.fields import kind_of
from minilm.files.regular import MAX_TEXT_BYTES, decode, read_text, reading


def read_json(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> dict[str, object]:
    """Read a JSON file with one object, strictly.

    Raises:
        DataError: unreadable, not UTF-8, not JSON, nested too deeply, a duplicate key, or not an object.
    """
    return parse_json_object(read_text(path, max_bytes=max_bytes), path)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (number from 1, object) of every line of a file with one JSON object per line.

    Raises:
        DataError: as for `read_json`; names the line.
    """
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield number, parse_json_object(decode(line, path, line=number).rstrip(), path, line=number)


class DuplicateKeyError(ValueError):
    """Raised inside the JSON parser; it does not know the location."""


def parse_json_object(text: str, path: object, *, line: int = 1) -> dict[str, object]:
    """Parse `text` as one JSON object; `line` is the line of the file called `path` where the text begins.

    Raises:
        DataError: not JSON, nested too deeply, a duplicate key, or not an object; names the line.
    """
    where = path if line == 1 else f"{path}:{line}"
    try:
        value: object = json.loads(text, object_pairs_hook=unique_keys)
    except DuplicateKeyError:
        below, key = _find_duplicate(text)
        location = f"{path}:{line + below - 1}"
        raise DataError(f"{location}: key {key} appears twice in one object: keep one of them") from None
    except json.JSONDecodeError as error:
        location = f"{path}:{line + error.lineno - 1}"
        raise DataError(f"{location}: broken JSON, {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise DataError(f"{where}: the JSON is nested too deeply") from None
    except ValueError as error:  # numbers with thousands of digits
        raise DataError(f"{where}: broken JSON, {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:{line}: expected a JSON object {{...}}, found {kind_of(value)}")
    return value


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these pairs, for the JSON parser; raises DuplicateKeyError if a key appears twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DuplicateKeyError(f"key {twice!r:.60} appears twice in one object: keep one of them")
    return value


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|[{}\[\]]')


def _find_duplicate(text: str) -> tuple[int, str]:
    """Return the line of the first duplicate key, and the key as written."""
    open_objects: list[set[str]] = []
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in "{[":
            open_objects.append(set())
        elif token[0] in "}]":
            open_objects.pop()
        elif token[1]:
            written = token[0][: -len(token[1])]
            key = json.loads(written, strict=False)
            if key in open_objects[-1]:
                return text.count("\n", 0, token.start()) + 1, written
            open_objects[-1].add(key)
    raise AssertionError("called for a text without a duplicate key")


def with_nulls(value: Mapping[str, object]) -> dict[str, object]:
    """A JSON object with null for each number that is not finite, such as an undefined correlation, at any depth."""
    return {key: _with_nulls(item) for key, item in value.items()}


def _with_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        return with_nulls(value)
    if isinstance(value, list | tuple):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object atomically: indent 2, keys in the given order, UTF-8, trailing newline.

    Raises:
        SystemProblem: the file cannot be written.
        ValueError: the value contains NaN or infinity, which are not JSON.
    """
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
