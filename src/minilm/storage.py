"""The only place that reads foreign bytes: strict text and JSON, tensor files, hashes; and the atomic writes.

In: paths of files that may be foreign, truncated or hostile; bytes, JSON values, tensors or arrays to keep.
Out: checked values, or one `DataError` that says what is wrong with the file; written files are complete or
absent (`minilm.atomic`). PyTorch `.bin` files are read by `minilm.legacy_bin`, which executes nothing.
Tensor files are safetensors: 8 bytes header length, a JSON header, then the raw tensors without gaps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minilm.atomic import atomic_folder, atomic_write, make_folder, writing_aside
from minilm.errors import DataError
from minilm.legacy_bin import read_legacy_bin

if TYPE_CHECKING:
    import torch

__all__ = [
    "atomic_folder",
    "atomic_write",
    "make_folder",
    "map_arrays",
    "read_json",
    "read_legacy_bin",
    "read_safetensors",
    "read_safetensors_header",
    "read_text",
    "sha256_file",
    "sha256_text",
    "write_arrays",
    "write_json",
    "write_safetensors",
]

MAX_JSON_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
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
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from error


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """Read a JSON file that holds one object, strictly.

    Raises:
        DataError: not readable, not UTF-8, not JSON, nested too deep, a key given twice, or not an object.
    """
    return _parse_object(read_text(path, max_bytes=max_bytes), path)


class _DuplicateKeyError(ValueError):
    """Raised inside the JSON parser; the place is looked up afterwards."""


def _parse_object(text: str, path: Path) -> dict[str, object]:
    try:
        value: object = json.loads(text, object_pairs_hook=_unique_keys)
    except _DuplicateKeyError:
        line, key = _find_duplicate(text)
        raise DataError(f"{path}:{line}: key {key} is given twice in one object: keep one of them") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: broken JSON, {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise DataError(f"{path}: the JSON is nested too deep") from None
    except ValueError as error:  # numbers of thousands of digits
        raise DataError(f"{path}: broken JSON, {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:1: expected a JSON object {{...}}, found a {type(value).__name__}")
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


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One tensor of a file: its type, its shape and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


# safetensors name: (bytes per element, numpy name, torch name); None = that library has no such type
_DTYPES: dict[str, tuple[int, str | None, str]] = {
    "BOOL": (1, "bool", "bool"),
    "U8": (1, "uint8", "uint8"),
    "I8": (1, "int8", "int8"),
    "F8_E5M2": (1, None, "float8_e5m2"),
    "F8_E4M3": (1, None, "float8_e4m3fn"),
    "I16": (2, "<i2", "int16"),
    "U16": (2, "<u2", "uint16"),
    "F16": (2, "<f2", "float16"),
    "BF16": (2, None, "bfloat16"),
    "I32": (4, "<i4", "int32"),
    "U32": (4, "<u4", "uint32"),
    "F32": (4, "<f4", "float32"),
    "I64": (8, "<i8", "int64"),
    "U64": (8, "<u8", "uint64"),
    "F64": (8, "<f8", "float64"),
}


def read_safetensors_header(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]:
    """Return ({tensor name: (dtype such as "F32", shape)}, metadata) without reading any tensor.

    Raises:
        DataError: the file is missing, truncated or malformed in any way.
    """
    entries, metadata = _read_header(path)
    return {name: (entry.dtype, entry.shape) for name, entry in entries.items()}, metadata


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a safetensors file into memory of its own, on the CPU.

    Raises:
        DataError: the file is missing, truncated or malformed in any way.
    """
    import torch

    tensors = {}
    for name, entry in _read_header(path)[0].items():
        with _reading(path):
            raw = np.fromfile(path, dtype=np.uint8, count=entry.num_bytes, offset=entry.start)
        if raw.size != entry.num_bytes:
            raise DataError(f"{path}: the file became shorter while tensor {name!r} was read: read it again")
        dtype: torch.dtype = getattr(torch, _DTYPES[entry.dtype][2])
        if raw.size:
            tensors[name] = torch.from_numpy(raw).view(dtype).reshape(entry.shape)
        else:
            tensors[name] = torch.empty(entry.shape, dtype=dtype)
    return tensors


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays of a safetensors file read-only; pages come from disk when they are touched.

    Raises:
        DataError: the file is malformed, or holds a type numpy does not have (BF16, F8).
    """
    entries, _ = _read_header(path)
    with _reading(path):
        data = np.memmap(path, dtype=np.uint8, mode="r")
    return {name: _view(data, name, entry, path) for name, entry in entries.items()}


def _view(data: np.ndarray, name: str, entry: _Entry, path: Path) -> np.ndarray:
    numpy_name = _DTYPES[entry.dtype][1]
    if numpy_name is None:
        raise DataError(f"{path}: array {name!r} has type {entry.dtype}, which numpy does not have")
    return data[entry.start : entry.start + entry.num_bytes].view(numpy_name).reshape(entry.shape)


def _read_header(path: Path) -> tuple[dict[str, _Entry], dict[str, str]]:
    with _reading(path), path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or length > min(file_bytes - 8, MAX_HEADER_BYTES):
            raise DataError(
                f"{path} is not a whole safetensors file: it has {file_bytes} bytes, its header {length}"
            )
        text = file.read(length)
    try:
        header = _parse_object(text.decode("utf-8"), path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: the safetensors header is not UTF-8") from None
    metadata = header.pop("__metadata__", {})
    entries = {name: _parse_entry(path, name, info, 8 + length) for name, info in header.items()}
    _check_layout(path, entries, begin=8 + length, end=file_bytes)
    return entries, _parse_metadata(path, metadata)


def _parse_metadata(path: Path, metadata: object) -> dict[str, str]:
    if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
        return metadata
    raise DataError(f"{path}: __metadata__ of a safetensors header must map text to text")


def _parse_entry(path: Path, name: str, info: object, data_start: int) -> _Entry:
    if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
        raise DataError(
            f"{path}: tensor {name!r} must have exactly dtype, shape and data_offsets in the header"
        )
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise DataError(
            f"{path}: tensor {name!r} has unknown dtype {str(dtype)[:40]!r}; known: {', '.join(_DTYPES)}"
        )
    if not (_are_sizes(shape) and len(shape) <= 64 and _are_sizes(offsets) and len(offsets) == 2):
        raise DataError(f"{path}: tensor {name!r} has a shape or data_offsets that are not lists of sizes")
    num_bytes = math.prod(shape) * _DTYPES[dtype][0]
    if offsets[1] - offsets[0] != num_bytes:
        raise DataError(
            f"{path}: tensor {name!r} of type {dtype} and shape {shape} needs {num_bytes} bytes, "
            f"its data_offsets span {offsets[1] - offsets[0]}"
        )
    return _Entry(dtype=dtype, shape=tuple(shape), start=data_start + offsets[0], num_bytes=num_bytes)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**62 for item in value)


def _check_layout(path: Path, entries: Mapping[str, _Entry], *, begin: int, end: int) -> None:
    """The tensors must cover the data part exactly: no overlap, no gap, nothing behind the last one."""
    position = begin
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].num_bytes)):
        if entry.start != position:
            fault = "overlaps the tensor before it" if entry.start < position else "leaves a gap before it"
            raise DataError(f"{path}: tensor {name!r} {fault} in the file")
        position += entry.num_bytes
    if position != end:
        state = "truncated" if position > end else "followed by foreign bytes"
        raise DataError(f"{path}: the tensors end at byte {position} but the file at {end}: it is {state}")


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (any device, any strides; tied ones are written twice) atomically as safetensors.

    Raises:
        SystemProblem: the machine refuses to write; an older file at `path` is untouched.
    """
    import torch

    names = {torch_name: name for name, (_, _, torch_name) in _DTYPES.items()}
    entries, parts = {}, {}
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        entries[name] = (names[dtype], tuple(tensor.shape))
        parts[name] = flat.view(torch.uint8).numpy()
    _write_tensors(path, entries, parts, metadata or {})


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write numpy arrays atomically as safetensors; raises SystemProblem when the machine refuses."""
    names = {np.dtype(numpy_name): name for name, (_, numpy_name, _) in _DTYPES.items() if numpy_name}
    entries = {name: (names[array.dtype], array.shape) for name, array in arrays.items()}
    parts = {name: np.ascontiguousarray(array).reshape(-1).view(np.uint8) for name, array in arrays.items()}
    _write_tensors(path, entries, parts, {})


def _write_tensors(
    path: Path,
    entries: Mapping[str, tuple[str, tuple[int, ...]]],
    parts: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Lay the tensors out, the widest types first so that each one is aligned, and write them."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    order = sorted(entries, key=lambda name: (-_DTYPES[entries[name][0]][0], name))
    position = 0
    for name in order:
        dtype, shape = entries[name]
        end = position + parts[name].size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with writing_aside(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(parts[name].data)
