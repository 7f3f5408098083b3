"""Weights of a model folder as numpy arrays, without torch; those of a safetensors file are memory-mapped.

In: a model folder. Out: arrays by name, or by our names with the shapes that the configuration states.

E hidden width, F feed-forward width, V vocabulary, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from minilm.errors import DataError
from minilm.files.tensors import map_arrays
from minilm.files.torch_bin import read_torch_bin_arrays
from minilm.model.config import FAMILIES, EncoderConfig, FamilyName
from minilm.model.metadata import LABELLED, HeadName, weight_files
from minilm.model.tensor_names import hf_names, listed, parts_of

V = TypeVar("V")
Shape = tuple[int, ...]


def merged(path: Path, read: Callable[[Path], Mapping[str, V]]) -> tuple[Path, dict[str, V]]:
    """All tensors of the model at `path`, from one file or its shards, and the file to mention in messages."""
    where, files = weight_files(path)
    tensors: dict[str, V] = {}
    for file in files:
        shard = read(file)
        if twice := sorted(set(shard) & set(tensors)):
            raise DataError(f"{file}: tensors {listed(twice)} are also in another shard; expected each tensor once")
        tensors.update(shard)
    return where, tensors


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of one file of weights; bfloat16 becomes float32. Raises DataError if the file is damaged."""
    return map_arrays(file, widen_bf16=True) if file.suffix == ".safetensors" else read_torch_bin_arrays(file)


def encoder_arrays(
    folder: Path, config: EncoderConfig, head: HeadName | None, *, num_labels: int
) -> dict[str, tuple[np.ndarray, ...]]:
    """The weights of an encoder and its head under our names: one array each, or query, key and value.

    Weights that are not in the file are omitted.

    Raises:
        DataError: a file is damaged, or its tensors do not fit the configuration; the message lists them.
    """
    where, arrays = merged(folder, read_arrays)
    expected = expected_shapes(config, head, num_labels=num_labels)
    found = parts_of(arrays, expected, family=config.family, head=head, where=str(where))
    shapes = {name: parts[0].shape for name, parts in found.items()}
    require_shapes(shapes, expected, family=config.family, head=head, where=str(where))
    return found


def require_shapes(
    found: Mapping[str, Shape],
    expected: Mapping[str, Shape],
    *,
    family: FamilyName,
    head: HeadName | None,
    where: str,
) -> None:
    """Require the `expected` shapes of weights under our names; raises DataError with all that differ."""
    differing = [name for name, shape in found.items() if name in expected and shape != expected[name]]
    if differing:
        wrong = [
            f"{hf_names(name, family=family, head=head)[0]} {found[name]} (expected {expected[name]})"
            for name in differing
        ]
        is_head = head in LABELLED and all(name.startswith("head.out.") for name in differing)
        hint = "; name the labels of the head in id2label of config.json, one for each row" if is_head else ""
        raise DataError(f"{where}: tensors do not match config.json: {listed(wrong)}{hint}")


def expected_shapes(config: EncoderConfig, head: HeadName | None, *, num_labels: int) -> dict[str, Shape]:
    """Our names of the weights of an encoder without a projection of its embeddings; of qkv the shape of one part."""
    width, inner = config.hidden_size, config.intermediate_size

    def linear(name: str, out: int, into: int) -> dict[str, Shape]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name: str) -> dict[str, Shape]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    base = "encoder.embeddings"
    shapes: dict[str, Shape] = {
        f"{base}.word.weight": (config.vocab_size, width),
        f"{base}.position.weight": (config.max_positions, width),
    }
    if FAMILIES[config.family].segments:
        shapes[f"{base}.segment.weight"] = (config.num_segments, width)
    shapes |= norm(f"{base}.norm")
    for number in range(config.num_layers):
        layer = f"encoder.layers.{number}"
        shapes |= linear(f"{layer}.qkv", width, width) | linear(f"{layer}.attention_out", width, width)
        shapes |= norm(f"{layer}.attention_norm")
        shapes |= linear(f"{layer}.ffn_in", inner, width) | linear(f"{layer}.ffn_out", width, inner)
        shapes |= norm(f"{layer}.ffn_norm")
    if head == "classification":
        shapes |= linear("encoder.pooler", width, width)
    if head is not None:
        shapes |= linear("head.out", num_labels, width)
    return shapes
