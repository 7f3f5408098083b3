"""The range of each dimension of a model's vectors, which its int8 vectors divide into 255 steps.

In and out: a JSON file with `low` and `high`, each a number for all dimensions or a list with one for each of them:
`vector_ranges.json` of a model folder, where training writes one symmetric range; `NAME.ranges.json` beside a file of
int8 vectors.

D dimensions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError
from minilm.files.json import read_json, write_json

VECTOR_RANGES = "vector_ranges.json"
"""Name of the file in a model folder."""
RANGES_SUFFIX = ".ranges.json"
"""How the name of the file beside vectors ends."""
_LARGEST = 1e38  # a difference of two is a float32


def read_vector_ranges(file: Path, *, dimensions: int) -> NDArray[np.float32]:
    """The lowest and the highest value of each dimension, `[2, D]`.

    Raises:
        DataError: the file is missing or damaged, has an unknown key or ranges for other dimensions, or a range ends
            below its start.
    """
    values = read_json(file)
    if set(values) != {"low", "high"}:
        raise DataError(f"{file}: found the keys {', '.join(map(repr, values)) or 'none'}; expected 'low' and 'high'")
    ranges_2D = np.stack([_numbers(values[key], dimensions, f"{file}: {key}") for key in ("low", "high")])
    wrong = np.flatnonzero(ranges_2D[0] > ranges_2D[1])
    if len(wrong):
        low, high = ranges_2D[:, wrong[0]].tolist()
        raise DataError(f"{file}: low is {low:g} and high {high:g} in dimension {wrong[0]}; expected low <= high")
    return ranges_2D


def read_model_ranges(file: Path, *, dimensions: int) -> NDArray[np.float32]:
    """The ranges of a model folder, as `read_vector_ranges`; raises UsageError if it has none."""
    if not file.is_file():
        raise UsageError(
            f"{file.parent} has no {VECTOR_RANGES}, which int8 vectors need; minilm embed --vectors int8 "
            "--calibrate TEXTS writes such a file beside its output, to use again or to copy there"
        )
    return read_vector_ranges(file, dimensions=dimensions)


def write_vector_ranges(file: Path, ranges_2D: NDArray[np.float32]) -> None:
    """Write ranges, `[2, D]`; raises SystemProblem if the file cannot be written."""
    write_json(file, {"low": ranges_2D[0].tolist(), "high": ranges_2D[1].tolist()})


def write_symmetric_range(file: Path, largest: float) -> None:
    """Write one range for all dimensions, from -largest to largest; raises SystemProblem if it cannot be written."""
    write_json(file, {"low": -largest, "high": largest})


def _numbers(value: object, dimensions: int, where: str) -> NDArray[np.float32]:
    """`[D]`, from a list of them or one number for all."""
    items = value if isinstance(value, list) else [value] * dimensions
    if len(items) != dimensions:
        raise DataError(
            f"{where} has {len(items)} numbers; expected {dimensions}, one for each dimension of the vectors, or one "
            "for all; calibrate with these dimensions"
        )
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | float) or not abs(item) <= _LARGEST:
            raise DataError(f"{where} is {item!r:.60}; expected a number up to {_LARGEST:g}, or a list of them")
    return np.array(items, dtype=np.float32)
