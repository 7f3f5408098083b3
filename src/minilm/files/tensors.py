"""Tensor files: safetensors, read and written by the library of that name.

In: paths of files that may be foreign, truncated or hostile; tensors or arrays to save.
Out: checked tensors, or one `DataError` with the reason; files are written atomically.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from minilm.errors import DataError, one_line
from minilm.files.atomic import writing_aside
from minilm.files.regular import reading

if TYPE_CHECKING:
    import torch

# The types of a tensor file that numpy has; it has no BF16 and no F8.
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


@contextlib.contextmanager
def _open_tensors(path: Path, *, framework: str) -> Iterator[safe_open]:
    """Open a tensor file; the library checks header, types and shapes, and that the tensors fill the file."""
    try:
        with (
            reading(path),
            path.open("rb"),  # its errors say more than the library's
            safe_open(path, framework=framework, backend="pread") as file,
        ):
            yield file
    except (SafetensorError, RuntimeError, TypeError) as error:  # the last two: shapes that torch rejects
        raise DataError(
            f"{path} is not a complete safetensors file ({one_line(error)}): copy or save it again"
        ) from None


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
    """Read every tensor of a safetensors file into its own memory, on the CPU.

    Raises:
        DataError: the file is missing, truncated or malformed in any way.
    """
    with _open_tensors(path, framework="pt") as file:
        tensors: dict[str, torch.Tensor] = file.get_tensors()
    return tensors


def map_arrays(path: Path, *, widen_bf16: bool = False) -> dict[str, np.ndarray]:
    """Map the arrays of a safetensors file read-only; pages are read from disk on access.

    The library has checked the layout: 8 bytes with the length of the header, the header, then the arrays
    without gaps.

    Args:
        path: the file.
        widen_bf16: read BF16 too, as float32 in memory.

    Raises:
        DataError: the file is malformed, or contains a type that numpy does not have (BF16, F8).
    """
    info, _ = read_safetensors_header(path)
    with reading(path):
        data = np.memmap(path, dtype=np.uint8, mode="r")
    position = 8 + int.from_bytes(data[:8].tobytes(), "little")
    arrays = {}
    for name, (dtype, shape) in info.items():
        widened = widen_bf16 and dtype == "BF16"
        if dtype not in _NUMPY_TYPES and not widened:
            raise DataError(f"{path}: array {name!r:.80} has type {dtype}, which numpy does not have")
        stored = _NUMPY_TYPES["U16" if widened else dtype]
        end = position + math.prod(shape) * stored.itemsize
        try:
            array = data[position:end].view(stored).reshape(shape)
        except ValueError as error:
            raise DataError(f"{path}: array {name!r:.80}: {one_line(error)}") from None
        arrays[name] = bf16_to_float32(array) if widened else array
        position = end
    return arrays


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredArray:
    """Where an array of a safetensors file is.

    Attributes:
        dtype: its type, such as "BF16".
        shape: its shape.
        start: its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int


def stored_arrays(path: Path) -> dict[str, StoredArray]:
    """Where each array of a safetensors file is, for `read_pieces`.

    Raises:
        DataError: as for `map_arrays`, but BF16 is a type like the others.
    """
    info, _ = read_safetensors_header(path)
    with reading(path), path.open("rb") as file:
        position = 8 + int.from_bytes(file.read(8), "little")
    arrays = {}
    for name, (dtype, shape) in info.items():
        stored = _NUMPY_TYPES.get("U16" if dtype == "BF16" else dtype)
        if stored is None:
            raise DataError(f"{path}: array {name!r:.80} has type {dtype}, which numpy does not have")
        arrays[name] = StoredArray(dtype=dtype, shape=shape, start=position)
        position += math.prod(shape) * stored.itemsize
    return arrays


def read_pieces(path: Path, pieces: Sequence[tuple[int, np.ndarray]]) -> None:
    """Fill contiguous arrays with the bytes of a file from given positions on; the file stays open only meanwhile.

    Unlike mapped pages, what is read does not count as memory of this process.

    Raises:
        DataError: the file cannot be read, or ends before a piece does.
    """
    with reading(path), path.open("rb", buffering=0) as file:
        for position, array in pieces:
            file.seek(position)
            if file.readinto(array.data) != array.nbytes:
                raise DataError(f"{path} ends before byte {position + array.nbytes:,}: it was changed while in use")


def release_pages(arrays: Iterable[np.ndarray]) -> None:
    """Give back the memory of mapped files that have been read; what is accessed again is read again from disk."""
    for mapped in {id(base): base for base in map(_mapping, arrays) if base is not None}.values():
        if hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def bf16_to_float32(halves: np.ndarray) -> np.ndarray:
    """The numbers whose bfloat16 bits are given as uint16."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (any device, any strides; tied ones are written twice) atomically as safetensors.

    Raises:
        SystemProblem: the file cannot be written; an older file at `path` is untouched.
    """
    from safetensors.torch import save_file

    own: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        rows = tensor.detach().to("cpu").contiguous()
        memory = rows.untyped_storage().data_ptr()
        own[name] = rows.clone() if memory in taken else rows  # the library rejects shared memory
        taken.add(memory)
    with _saving(path) as aside:
        save_file(own, aside, metadata=dict(metadata) if metadata else None)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write numpy arrays atomically as safetensors; raises SystemProblem if that fails."""
    from safetensors.numpy import save_file

    with _saving(path) as aside:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, aside)


@contextlib.contextmanager
def _saving(path: Path) -> Iterator[Path]:
    """Yield the path for the library to save to; it makes no copy in memory and creates a new file there.

    The library neither syncs that file nor makes it readable by others, and reports system errors only as text.
    """
    with writing_aside(path) as file:
        aside = Path(file.name)
        mode = stat.S_IMODE(aside.stat().st_mode)
        try:
            yield aside
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            raise OSError(int(number[1]) if number else None, one_line(error)) from error
        aside.chmod(mode)
        with aside.open("rb") as whole:
            os.fsync(whole.fileno())
