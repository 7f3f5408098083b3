"""The only place that reads foreign model files and JSON: strict text, tensor files, hashes; and the atomic writes.

In: paths of files that may be foreign, truncated or hostile; bytes, JSON values, tensors or arrays to keep.
Out: checked values, or one `DataError` that says what is wrong with the file; written files are complete or
absent (`minilm.atomic`). PyTorch `.bin` files are read by `minilm.legacy_bin`, which executes nothing;
compressed text and parquet by `minilm.corpus.readers`, through gzip and pyarrow.
Tensor files are safetensors, read and written by the library of that name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from minilm.atomic import atomic_folder, atomic_write, make_folder, reporting_writes, writing_aside
from minilm.errors import DataError
from minilm.legacy_bin import read_legacy_bin, read_plain_pickles

if TYPE_CHECKING:
    import torch

__all__ = [
    "atomic_folder",
    "atomic_write",
    "make_folder",
    "map_arrays",
    "parse_json_object",
    "read_json",
    "read_json_lines",
    "read_legacy_bin",
    "read_plain_pickles",
    "read_safetensors",
    "read_safetensors_header",
    "read_text",
    "reporting_writes",
    "sha256_file",
    "sha256_text",
    "write_arrays",
    "write_json",
    "write_safetensors",
]

MAX_JSON_BYTES = 256 * 2**20
_CHUNK_BYTES = 2**20

# --- hashing -------------------------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes; raises DataError when it cannot be read."""
    digest = hashlib.sha256()
    with _reading(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Return the hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# --- reading text and JSON -----------------------------------------------------------------------


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence; only regular files are opened."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is not a regular file: give the path of a file")
        yield
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        if "null byte" in str(error) or "null character" in str(error):
            raise DataError(f"cannot read {str(path)!r}: the path holds a NUL character") from error
        raise


def read_text(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Read a UTF-8 text file whole, line ends untouched.

    Raises:
        DataError: missing, unreadable, larger than `max_bytes`, or not UTF-8 (names the line).
    """
    with _reading(path), path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DataError(f"{path} is larger than {max_bytes} bytes, the limit for this kind of file")
    return decode(data, path)


def decode(data: bytes, path: Path, *, line: int = 1) -> str:
    """The text of a UTF-8 file, or of what begins at `line`; raises DataError when it is none (names the line)."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from error


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """Read a JSON file that holds one object, strictly.

    Raises:
        DataError: not readable, not UTF-8, not JSON, nested too deep, a key given twice, or not an object.
    """
    return parse_json_object(read_text(path, max_bytes=max_bytes), path)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (number from 1, object) of every line of a file that holds a JSON object a line.

    Raises:
        DataError: as `read_json`; names the line.
    """
    with _reading(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield number, parse_json_object(decode(line, path, line=number).rstrip(), path, line=number)


class _DuplicateKeyError(ValueError):
    """Raised inside the JSON parser; the place is looked up afterwards."""


def parse_json_object(text: str, path: Path, *, line: int = 1) -> dict[str, object]:
    """Return the one JSON object that `text` holds; `line` is where the text begins in the file.

    Raises:
        DataError: not JSON, nested too deep, a key given twice, or not an object; names the line.
    """
    where = path if line == 1 else f"{path}:{line}"
    try:
        value: object = json.loads(text, object_pairs_hook=_unique_keys)
    except _DuplicateKeyError:
        below, key = _find_duplicate(text)
        place = f"{path}:{line + below - 1}"
        raise DataError(f"{place}: key {key} is given twice in one object: keep one of them") from None
    except json.JSONDecodeError as error:
        place = f"{path}:{line + error.lineno - 1}"
        raise DataError(f"{place}: broken JSON, {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise DataError(f"{where}: the JSON is nested too deep") from None
    except ValueError as error:  # numbers of thousands of digits
        raise DataError(f"{where}: broken JSON, {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:{line}: expected a JSON object {{...}}, found a {type(value).__name__}")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _DuplicateKeyError
    return value


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|[{}\[\]]')


def _find_duplicate(text: str) -> tuple[int, str]:
    """Return the line and the key (as written) of the first key that an object gives twice."""
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


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object atomically: indent 2, keys in the given order, UTF-8, a newline at the end.

    Raises:
        SystemProblem: the machine refuses to write.
        ValueError: the value holds NaN or infinity, which are not JSON.
    """
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


# --- tensor files (safetensors) ------------------------------------------------------------------

# What numpy has of the types of a tensor file; it has no BF16 and no F8.
_NUMPY_TYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_MAX_REASON = 300  # characters of a library's message, which may quote a foreign file


@contextlib.contextmanager
def _open_tensors(path: Path, *, framework: str) -> Iterator[safe_open]:
    """Open a tensor file; the library checks header, types, shapes and that they cover the file exactly."""
    try:
        with (
            _reading(path),
            path.open("rb"),  # its refusals say more than the library's
            safe_open(path, framework=framework, backend="pread") as file,
        ):
            yield file
    except (SafetensorError, RuntimeError, TypeError) as error:  # the last two: shapes that torch refuses
        raise DataError(f"{path} is not a whole safetensors file ({_quoted(error)}): copy or save it again") from None


def _quoted(error: Exception) -> str:
    """The first words of a library's message, printable, on one line: it may quote a foreign file."""
    return "".join(letter if letter.isprintable() else " " for letter in str(error)[:_MAX_REASON])


def read_safetensors_header(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]:
    """Return ({tensor name: (dtype such as "F32", shape)}, metadata), in file order, without the tensors.

    Raises:
        DataError: the file is missing, truncated or malformed in any way.
    """
    with _open_tensors(path, framework="numpy") as file:
        views = [(name, file.get_slice(name)) for name in file.offset_keys()]
        info = {name: (view.get_dtype(), tuple(view.get_shape())) for name, view in views}
        return info, file.metadata() or {}


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a safetensors file into memory of its own, on the CPU.

    Raises:
        DataError: the file is missing, truncated or malformed in any way.
    """
    with _open_tensors(path, framework="pt") as file:
        tensors: dict[str, torch.Tensor] = file.get_tensors()
    return tensors


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays of a safetensors file read-only; pages come from disk when they are touched.

    The library has found the file to be whole: 8 bytes that give the header's length, the header, then the
    arrays without gaps.

    Raises:
        DataError: the file is malformed, or holds a type numpy does not have (BF16, F8).
    """
    info, _ = read_safetensors_header(path)
    with _reading(path):
        data = np.memmap(path, dtype=np.uint8, mode="r")
    position = 8 + int.from_bytes(data[:8].tobytes(), "little")
    arrays = {}
    for name, (dtype, shape) in info.items():
        if dtype not in _NUMPY_TYPES:
            raise DataError(f"{path}: array {name!r:.80} has type {dtype}, which numpy does not have")
        end = position + math.prod(shape) * _NUMPY_TYPES[dtype].itemsize
        try:
            arrays[name] = data[position:end].view(_NUMPY_TYPES[dtype]).reshape(shape)
        except ValueError as error:
            raise DataError(f"{path}: array {name!r:.80}: {_quoted(error)}") from None
        position = end
    return arrays


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (any device, any strides; tied ones are written twice) atomically as safetensors.

    Raises:
        SystemProblem: the machine refuses to write; an older file at `path` is untouched.
    """
    from safetensors.torch import save_file

    own: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        rows = tensor.detach().to("cpu").contiguous()
        memory = rows.untyped_storage().data_ptr()
        own[name] = rows.clone() if memory in taken else rows  # the library refuses memory it has seen
        taken.add(memory)
    with _saving(path) as aside:
        save_file(own, aside, metadata=dict(metadata) if metadata else None)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write numpy arrays atomically as safetensors; raises SystemProblem when the machine refuses."""
    from safetensors.numpy import save_file

    with _saving(path) as aside:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, aside)


@contextlib.contextmanager
def _saving(path: Path) -> Iterator[Path]:
    """Yield where the library shall save; it copies nothing in memory, and puts a new file in that place.

    That file is neither synced nor readable by others yet, and refusals of the system come as text.
    """
    with writing_aside(path) as file:
        aside = Path(file.name)
        mode = stat.S_IMODE(aside.stat().st_mode)
        try:
            yield aside
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            raise OSError(int(number[1]) if number else None, _quoted(error)) from error
        aside.chmod(mode)
        with aside.open("rb") as whole:
            os.fsync(whole.fileno())
