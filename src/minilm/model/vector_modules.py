"""Modules after pooling in a sentence-transformers folder: Dense, LayerNorm, Normalize.

In: the folder of a module, `config.json` and weights. Out: a `VectorModule`, arrays in numpy, which `infer/vectors.py`
computes; the same files, written as every release of sentence-transformers reads them.

I width in, O width out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError
from minilm.files.json import read_json, write_json
from minilm.files.tensors import map_arrays, write_arrays
from minilm.files.torch_bin import read_torch_bin_arrays
from minilm.model.activations import Activation, activation_at, activation_path

_ACTIVATION_KEY = "activation_function"
_WEIGHTS = "model.safetensors"
_VECTORS = "sentence_embedding"
_ON_VECTORS: Mapping[str, object] = {"module_input_name": _VECTORS, "module_output_name": _VECTORS}
SCORES = "scores"
"""What the last Dense module of a reranker gives, under this name."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dense:
    """A linear map and an activation, with an optional residual connection.

    Attributes:
        weight: `[O, I]`.
        bias: `[O]`, if any.
        activation: class name in `torch.nn`.
        residual: `[O, I]`: the map of the residual connection; `identity`: the input itself; None: no connection.
        where: its folder, for messages; None before it has one.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    activation: Activation = "Identity"
    residual: NDArray[np.float32] | Literal["identity"] | None = None
    where: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerNorm:
    """Layer normalization with `weight` and `bias` `[I]` and torch's default epsilon."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    where: Path | None = None


@dataclass(frozen=True, slots=True)
class Normalize:
    """Scaling to length 1."""


VectorModule = Dense | LayerNorm | Normalize


def checksum_of(module: VectorModule) -> str:
    """Hex SHA-256 of what a module computes; its folder is not part of it."""
    digest = hashlib.sha256(type(module).__name__.encode())
    for one in fields(module):
        value = getattr(module, one.name)
        if one.name != "where":
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()


def require_keys(
    values: Mapping[str, object], file: Path, *, used: Collection[str], defaults: Mapping[str, object]
) -> None:
    """Require that a configuration has nothing that would be ignored here but not by sentence-transformers.

    Args:
        values: the content of `file`.
        file: for messages.
        used: keys that are computed, or change no vector.
        defaults: other known keys with the only value that is supported, besides null.

    Raises:
        DataError: another known key has another value, or a key is unknown and not null.
    """
    for key, value in values.items():
        if key in used or value is None or (key in defaults and value == defaults[key]):
            continue
        if key in defaults:
            raise DataError(
                f"{file}: {key} is {value!r:.80}; expected {defaults[key]!r}; encode with sentence-transformers"
            )
        raise DataError(
            f"{file}: unknown key {key} with value {value!r:.80}; remove it if no vector depends on it, "
            "else encode with sentence-transformers"
        )


def flag(values: Mapping[str, object], key: str, file: Path, *, default: bool) -> bool:
    """A value that is true or false; raises DataError for anything else."""
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise DataError(f"{file}: {key} is {value!r:.80}; expected true or false")
    return value


def read_dense(folder: Path, *, output: str = _VECTORS) -> Dense:
    """Read a Dense module, whose `output` has this name.

    Raises:
        DataError: the configuration asks for something that is not computed, or does not match the weights.
    """
    file = folder / "config.json"
    values = read_json(file)
    used = ("in_features", "out_features", "bias", _ACTIVATION_KEY, "use_residual")
    if output != _VECTORS and values.get("module_output_name") != output:
        raise DataError(f"{file}: module_output_name is {values.get('module_output_name')!r:.80}; expected {output!r}")
    require_keys(values, file, used=used, defaults={**_ON_VECTORS, "module_output_name": output})
    width_in, width_out = _size(values, "in_features", file), _size(values, "out_features", file)
    has_bias = flag(values, "bias", file, default=True)
    has_residual = flag(values, "use_residual", file, default=False)
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (width_out, width_in)}
    if has_bias:
        shapes["linear.bias"] = (width_out,)
    if has_residual and width_in != width_out:
        shapes["residual.weight"] = (width_out, width_in)
    weights = _read_weights(folder, shapes)
    return Dense(
        weight=weights["linear.weight"],
        bias=weights.get("linear.bias"),
        activation=activation_at(values.get(_ACTIVATION_KEY, "torch.nn.Tanh"), key=_ACTIVATION_KEY, file=file),
        residual=weights.get("residual.weight", "identity") if has_residual else None,
        where=folder,
    )


def read_layer_norm(folder: Path) -> LayerNorm:
    """Read a LayerNorm module; raises DataError as `read_dense` does."""
    file = folder / "config.json"
    values = read_json(file)
    require_keys(values, file, used=("dimension",), defaults={})
    width = _size(values, "dimension", file)
    weights = _read_weights(folder, {"norm.weight": (width,), "norm.bias": (width,)})
    return LayerNorm(weight=weights["norm.weight"], bias=weights["norm.bias"], where=folder)


def read_normalize(folder: Path) -> Normalize:
    """Read a Normalize module, usually without any file; raises DataError if it applies to something else."""
    file = folder / "config.json"
    if file.is_file():
        require_keys(read_json(file), file, used=(), defaults=_ON_VECTORS)
    return Normalize()


def write_module(folder: Path, module: VectorModule, *, output: str = _VECTORS) -> None:
    """Write the files of a module into its folder, which must exist; Normalize needs none.

    `output` is the name of what a Dense module gives.

    Raises:
        SystemProblem: a file cannot be written.
    """
    if isinstance(module, Dense):
        width_out, width_in = module.weight.shape
        values = {"in_features": width_in, "out_features": width_out, "bias": module.bias is not None}
        values[_ACTIVATION_KEY] = activation_path(module.activation)
        if output != _VECTORS:
            values |= {**_ON_VECTORS, "module_output_name": output}
        if module.residual is not None:  # a key that older releases do not know
            values["use_residual"] = True
        arrays = {"linear.weight": module.weight, "linear.bias": module.bias, "residual.weight": module.residual}
    elif isinstance(module, LayerNorm):
        values = {"dimension": len(module.weight)}
        arrays = {"norm.weight": module.weight, "norm.bias": module.bias}
    else:
        return
    write_json(folder / "config.json", values)
    found = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    write_arrays(folder / _WEIGHTS, {name: array.astype(np.float32) for name, array in found.items()})


def _size(values: Mapping[str, object], key: str, file: Path) -> int:
    value = values.get(key)
    if type(value) is not int or value < 1:
        raise DataError(f"{file}: {key} is {value!r:.80}; expected a positive whole number")
    return value


def _read_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """The tensors of a module as float32; raises DataError unless there are exactly those of `shapes`."""
    file = folder / _WEIGHTS
    if file.is_file():
        arrays = map_arrays(file, widen_bf16=True)
    else:
        file = folder / "pytorch_model.bin"
        if not file.is_file():
            raise DataError(f"{folder}: no weights; expected model.safetensors or pytorch_model.bin")
        arrays = read_torch_bin_arrays(file)
    found = {name: array.shape for name, array in arrays.items()}
    if found != dict(shapes):
        raise DataError(f"{file}: tensors {found}; expected {dict(shapes)} from config.json")
    return {name: np.array(array, dtype=np.float32) for name, array in arrays.items()}
