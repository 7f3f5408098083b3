"""Ids and texts in a parquet file, and vectors in an .npy file, read where they lie.

In: ids and texts, chunk by chunk; later the numbers of rows. Out: `id` and `text` of those rows, from the row groups
that hold them; an array whose pages are read when they are used.

N vectors, W items of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, one_line
from minilm.files.atomic import writing_aside
from minilm.files.regular import reading

Vectors = NDArray[np.float32 | np.float16 | np.int8 | np.uint8]
WriteTexts = Callable[[Sequence[str], Sequence[str]], None]

_COLUMNS = ("id", "text")
_ROWS_PER_GROUP = 1024
_KEPT_GROUPS = 16


@contextmanager
def writing_texts(path: Path) -> Iterator[WriteTexts]:
    """Yield a function that writes ids and their texts to a parquet file, which appears when the block succeeds.

    Raises:
        SystemProblem: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _COLUMNS])

    def write(*columns: Sequence[str]) -> None:
        writer.write_table(pa.table(list(columns), schema=schema), row_group_size=_ROWS_PER_GROUP)

    with writing_aside(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield write


class TextStore:
    """The ids and texts of a file that `writing_texts` wrote; all ids are kept in memory, texts are read when asked."""

    def __init__(self, path: Path) -> None:
        """Read the ids; raises DataError if the file is missing or damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        with reading(path):
            try:
                self._file = pq.ParquetFile(path)
                self.ids: list[str] = self._file.read(columns=["id"])["id"].to_pylist()
                if any(self._file.schema_arrow.field(name).type != pa.string() for name in _COLUMNS):
                    raise KeyError("a column has no texts")
            except (pa.ArrowException, KeyError) as error:
                raise self._damaged(error) from None
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self._begins = np.cumsum([0, *sizes])
        self._group = lru_cache(_KEPT_GROUPS)(self._read)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    def text(self, row: int) -> str:
        """The text of a row, from 0; raises DataError if the file is damaged."""
        number = int(np.searchsorted(self._begins, row, side="right")) - 1
        return self._group(number)[row - int(self._begins[number])]

    def _read(self, group: int) -> list[str]:
        import pyarrow as pa

        try:
            texts: list[str] = self._file.read_row_group(group, columns=["text"])["text"].to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None
        return texts

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self._path}: damaged, or not a parquet file with id and text ({one_line(error)})")


def map_vectors(path: Path) -> Vectors:
    """The array of an .npy file, `[N, W]`, without reading it.

    Raises:
        DataError: the file is missing, damaged, or holds no vectors.
    """
    with reading(path):
        try:
            array: Vectors = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise DataError(f"{path}: damaged, or not an .npy file ({one_line(error)})") from None
    if array.ndim != 2 or array.dtype not in (np.float32, np.float16, np.int8, np.uint8):
        raise DataError(
            f"{path}: found {array.dtype} of shape {array.shape}; expected one vector per row, of float32, float16, "
            "int8 or uint8"
        )
    return array
