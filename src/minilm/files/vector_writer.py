"""Write vectors in the format that the name of a file says, part by part.

In: ids and vectors, float32, float16, int8 or uint8. Out: .npy (vectors alone, one array), .parquet (`id`, and `vector`
as a list of fixed size) or .jsonl (an object with both per line).

B vectors, W items of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from minilm.files.atomic import writing_aside

Vectors = NDArray[np.float32 | np.float16 | np.int8 | np.uint8]
WriteVectors = Callable[[Sequence[str], Vectors], None]

_METADATA = b"minilm"  # key of the parquet schema


def holds_ids(path: Path) -> bool:
    """Whether a file of this name holds ids beside the vectors."""
    return path.suffix.lower() != ".npy"


@contextmanager
def writing_vectors(
    path: Path, *, dtype: str, width: int, count: int, facts: Mapping[str, object]
) -> Iterator[WriteVectors]:
    """Yield a function that writes ids and vectors to a file, which appears when the block succeeds.

    Args:
        path: the file.
        dtype: of the items.
        width: W.
        count: how many vectors are written in the end.
        facts: JSON values about the vectors, which a parquet file keeps under the key `minilm` of its metadata.

    Raises:
        SystemProblem: the file cannot be written.
    """
    with writing_aside(path) as file, _WRITERS[path.suffix.lower()](file, np.dtype(dtype), (count, width), facts) as to:
        yield to


def vector_lines(ids: Sequence[str], vectors_BW: Vectors) -> bytes:
    """A line of JSON for each vector; numbers have the fewest digits that give the same float32."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = vectors_BW.astype(np.float32) if vectors_BW.dtype == np.float16 else vectors_BW
    texts = pa.array(numbers.reshape(-1)).cast(pa.string())
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * vectors_BW.shape[1]
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ", ").to_pylist()
    names = (json.dumps(name) for name in ids)
    return "".join(f'{{"id": {name}, "vector": [{one}]}}\n' for name, one in zip(names, joined, strict=True)).encode()


@contextmanager
def _array(
    file: BinaryIO, dtype: np.dtype[np.generic], shape: tuple[int, int], facts: Mapping[str, object]
) -> Iterator[WriteVectors]:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    yield lambda _, vectors_BW: _write_bytes(file, vectors_BW)


def _write_bytes(file: BinaryIO, vectors_BW: Vectors) -> None:
    file.write(np.ascontiguousarray(vectors_BW).data)


@contextmanager
def _parquet(
    file: BinaryIO, dtype: np.dtype[np.generic], shape: tuple[int, int], facts: Mapping[str, object]
) -> Iterator[WriteVectors]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.field("item", pa.from_numpy_dtype(dtype), nullable=False), shape[1])
    fields = [pa.field("id", pa.string(), nullable=False), pa.field("vector", kind, nullable=False)]
    schema = pa.schema(fields, {_METADATA: json.dumps(facts).encode()})

    def write(ids: Sequence[str], vectors_BW: Vectors) -> None:
        names = pa.array([name.encode(errors="backslashreplace").decode() for name in ids], pa.string())
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors_BW.reshape(-1)), type=kind)
        writer.write_table(pa.Table.from_arrays([names, lists], schema=schema))

    bytewise = dtype.itemsize == 1  # parquet has no smaller number than 32 bits, but dictionaries of bytes
    with pq.ParquetWriter(file, schema, use_dictionary=bytewise, compression="none") as writer:
        yield write


@contextmanager
def _lines(
    file: BinaryIO, dtype: np.dtype[np.generic], shape: tuple[int, int], facts: Mapping[str, object]
) -> Iterator[WriteVectors]:
    def write(ids: Sequence[str], vectors_BW: Vectors) -> None:
        file.write(vector_lines(ids, vectors_BW))

    yield write


_WRITERS = {".npy": _array, ".parquet": _parquet, ".jsonl": _lines}
VECTOR_SUFFIXES = tuple(_WRITERS)
"""Suffixes of files of vectors."""
