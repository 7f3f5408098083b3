"""Regular files of unknown origin: opened, decoded strictly, hashed.

In: paths. Out: UTF-8 text or SHA-256 sums, or one `DataError` with the reason.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from minilm.errors import DataError, one_line

MAX_TEXT_BYTES = 256 * 2**20
_CHUNK_BYTES = 2**20
POINTER = b"version https://git-lfs.github.com/spec/"
"""How a Git LFS pointer begins."""
_MAX_POINTER_BYTES = 1024


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn operating system errors into a one-sentence DataError; only regular files are opened."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is not a regular file: give the path of a file")
        reject_pointer(path)
        yield
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        if "null byte" in str(error) or "null character" in str(error):
            raise DataError(f"cannot read {str(path)!r}: the path contains a NUL character") from error
        raise


def reject_pointer(path: Path) -> None:
    """Raise DataError if the file is a Git LFS pointer, which stands for a file that was not downloaded."""
    try:
        if path.stat().st_size > _MAX_POINTER_BYTES:
            return
        handle = os.open(path, os.O_RDONLY)
    except (OSError, ValueError):
        return  # reported by the reader
    with os.fdopen(handle, "rb") as file:
        data = file.read()
    if data.startswith(POINTER):
        raise DataError(pointer_problem(data, path))


def pointer_problem(data: bytes, name: object) -> str:
    """The message about a Git LFS pointer, `data`, in place of the file called `name`."""
    sizes = (line[5:].decode(errors="replace") for line in data.splitlines() if line.startswith(b"size "))
    return (
        f"{name} is a Git LFS pointer to a file of {one_line(next(sizes, 'unknown'))} bytes, not the file: run "
        "'git lfs pull' in its repository, or download the file again"
    )


def read_text(path: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 text file whole, without a byte order mark, line endings unchanged.

    Raises:
        DataError: missing, unreadable, larger than `max_bytes`, or not UTF-8 (names the line).
    """
    with reading(path), path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DataError(f"{path} is larger than {max_bytes} bytes, the limit for this kind of file")
    return decode(data.removeprefix(codecs.BOM_UTF8), path)


def reject_utf16(start: bytes, path: object) -> None:
    """Raise DataError, which names `path`, if a file that begins with `start` is UTF-16."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: the file is UTF-16, expected UTF-8; write it again as UTF-8")


def decode(data: bytes, path: object, *, line: int = 1) -> str:
    """Decode a UTF-8 file, or its part that begins at `line`; raises DataError that names `path` and the line."""
    if line == 1:
        reject_utf16(data, path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from error


def without_surrogates(text: str) -> str:
    """Join surrogate pairs; replace lone surrogates with U+FFFD, which BERT's normalizer drops."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes; raises DataError if it cannot be read."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_texts(texts: Iterable[str]) -> tuple[str, int]:
    """The hex SHA-256 of texts in order, each with its length, and their number."""
    found = TextsDigest()
    for text in texts:
        found.add(text)
    return found.result()


class TextsDigest:
    """What `sha256_texts` returns, of texts that are added one by one."""

    def __init__(self) -> None:
        """Begin without any."""
        self._digest, self._count = hashlib.sha256(), 0

    def add(self, text: str) -> None:
        """Add the next text."""
        data = text.encode("utf-8", "surrogatepass")
        self._digest.update(len(data).to_bytes(8, "big") + data)
        self._count += 1

    def result(self) -> tuple[str, int]:
        """The hex SHA-256 of the texts so far, and their number."""
        return self._digest.hexdigest(), self._count


def sha256_text(text: str) -> str:
    """Return the hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
