"""The scales of an int8 model: two files beside the weights of an ordinary model folder.

In: a folder, or scales to write. Out: `Int8Maps`, checked against the configuration and the weights they belong to.

`minilm_int8.safetensors` holds one float32 vector `[in]` for each int8 map of the encoder; `minilm_int8.json` states
the rest: the version of the format, the hashes of the weights and the scales, the maps that are not int8, and what the
gate measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError
from minilm.files.json import read_json, write_json
from minilm.files.regular import sha256_file
from minilm.files.tensors import map_arrays, write_arrays
from minilm.kernels.encoder import LINEARS
from minilm.model.config import EncoderConfig
from minilm.model.metadata import weights_checksum

SCALES, FACTS = "minilm_int8.safetensors", "minilm_int8.json"
_VERSION = 1
_SUFFIX = ".smoothing"
_AGAIN = "run minilm quantize again"
_LEAST, _MOST = 1e-6, 1e6  # of a factor, and the kernels take no others; calibration stays far within


@dataclass(frozen=True, kw_only=True)
class Int8Maps:
    """Which linear maps of an encoder are int8; names are `layers.N.MAP`, N from 0.

    Attributes:
        smoothing: of each int8 map, the factors of its inputs before they become int8, `[in]`.
        kept: the maps that are not int8, because the gate asked for it.
        weights: the hash of the weights they belong to, if they were read.
    """

    smoothing: Mapping[str, NDArray[np.float32]]
    kept: Sequence[str] = ()
    weights: object = None


def map_names(config: EncoderConfig) -> dict[str, int]:
    """The linear maps of an encoder in the order of computation, with the width of their inputs."""
    return {
        f"layers.{number}.{name}": config.intermediate_size if name == "ffn_out" else config.hidden_size
        for number in range(config.num_layers)
        for name in LINEARS
    }


def has_int8(folder: Path) -> bool:
    """Whether a folder of weights has the files of an int8 model."""
    return (folder / SCALES).is_file() and (folder / FACTS).is_file()


def write_int8(folder: Path, maps: Int8Maps, gate: Mapping[str, object]) -> None:
    """Write both files into the folder of the weights.

    Raises:
        SystemProblem: a file cannot be written.
    """
    write_arrays(folder / SCALES, {f"{name}{_SUFFIX}": factors for name, factors in maps.smoothing.items()})
    hashes = {"weights": weights_checksum(folder), "scales": sha256_file(folder / SCALES)}
    write_json(folder / FACTS, {"version": _VERSION, **hashes, "kept": list(maps.kept), "gate": gate})


def read_int8(folder: Path, config: EncoderConfig) -> Int8Maps:
    """Read both files from the folder of the weights; `require_same_weights` checks whether they belong to these.

    Raises:
        UsageError: the folder has none.
        DataError: they are damaged, or of another version.
    """
    if not has_int8(folder):
        missing = next(name for name in (SCALES, FACTS) if not (folder / name).is_file())
        raise UsageError(
            f"precision is 'int8', but {folder} has no {missing}; make a folder that has it with "
            f"'minilm quantize {folder} --out DIR' and load that one, or use 'fp32'"
        )
    file = folder / FACTS
    facts = read_json(file)
    if facts.get("version") != _VERSION:
        raise DataError(
            f"{file}: version is {facts.get('version')!r:.60}; expected {_VERSION}: {_AGAIN}, or upgrade minilm"
        )
    kept = facts.get("kept")
    if not isinstance(kept, list) or not all(isinstance(name, str) for name in kept):
        raise DataError(f"{file}: kept is {kept!r:.60}; expected a list of names of maps: {_AGAIN}")
    arrays = map_arrays(folder / SCALES)
    expected = {f"{name}{_SUFFIX}": width for name, width in map_names(config).items()}
    given = [*arrays, *(f"{name}{_SUFFIX}" for name in kept)]
    if sorted(given) != sorted(expected):
        odd = sorted({*given} ^ {*expected}) or sorted(name for name in {*given} if given.count(name) > 1)
        raise DataError(
            f"{folder / SCALES}: found the scales of {len(arrays)} maps and {len(kept)} kept ones, expected each of "
            f"the {len(expected)} maps of config.json once (first difference: {odd[0]}): {_AGAIN}"
        )
    for name, factors in arrays.items():
        if factors.dtype != np.float32 or factors.shape != (expected[name],):
            found = f"{factors.dtype} of the shape {factors.shape}"
            raise DataError(f"{folder / SCALES}: {name} is {found}; expected float32 of ({expected[name]},): {_AGAIN}")
        if (odd_ones := factors[~((factors >= _LEAST) & (factors <= _MOST))]).size:
            raise DataError(
                f"{folder / SCALES}: {name} has the factor {odd_ones[0]}; expected {_LEAST:g} to {_MOST:g}: {_AGAIN}"
            )
    if facts.get("scales") != sha256_file(folder / SCALES):
        raise DataError(f"{folder / SCALES} is not the file that was written with {FACTS}: {_AGAIN}")
    smoothing = {name.removesuffix(_SUFFIX): np.array(factors) for name, factors in arrays.items()}
    return Int8Maps(smoothing=smoothing, kept=tuple(kept), weights=facts.get("weights"))


def require_same_weights(folder: Path, maps: Int8Maps) -> None:
    """Raise DataError if the weights of a folder are not those that its scales were made for."""
    if maps.weights != weights_checksum(folder):
        raise DataError(f"{folder / FACTS}: the weights of {folder} have changed since it was quantized: {_AGAIN}")
