"""Calibration: how large the inputs of each linear map get, and what is multiplied to them before they become int8.

In: a model folder, token ids; weights. Out: per input channel of each map its largest input; its factor.

A few channels of a MiniLM are much larger than the rest, and a token has one scale. Dividing a channel by what its
weights are multiplied with makes both sides equally hard to round (SmoothQuant); the product stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minilm.infer.batching import in_order
from minilm.infer.engines.int8 import map_names
from minilm.model.packed_ids import Int32s, PackedIds

if TYPE_CHECKING:
    import torch

Float32s = NDArray[np.float32]

_SHARE = 0.5  # of the range of a channel that moves from its inputs to its weights, as a power
_LEAST_WEIGHT, _LEAST, _MOST = 1e-6, 1e-3, 1e4
_LEAST_INPUT = 0.1  # of the median channel: one that calibration hardly saw must not become the largest of other texts


def largest_inputs(
    folder: Path, token_ids: Sequence[Int32s], segment_ids: Sequence[Int32s] | None
) -> dict[str, Float32s]:
    """The largest absolute input of each linear map by channel, `[in]` each, computed by torch."""
    import torch

    from minilm.model.checkpoint import read_model
    from minilm.model.packing import Packed

    encoder = read_model(folder).encoder
    found: dict[str, torch.Tensor] = {}
    for name in map_names(encoder.config):
        encoder.get_submodule(name).register_forward_pre_hook(partial(_note, found, name))

    def compute(batch: PackedIds) -> range:
        encoder(Packed.from_ids(batch))
        return range(batch.num_sequences)

    with torch.inference_mode():
        in_order(token_ids, segment_ids, compute)
    return {name: largest.numpy() for name, largest in found.items()}


def _note(found: dict[str, torch.Tensor], name: str, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    largest = inputs[0].abs().amax(0)
    found[name] = largest.maximum(found[name]) if name in found else largest


def smoothing_of(largest: Float32s, weights: Sequence[Float32s]) -> Float32s:
    """The factors of the inputs of a map, `[in]`; its weights `[out, in]` are divided by them."""
    inputs = np.maximum(largest, max(_LEAST_INPUT * float(np.median(largest)), np.finfo(np.float32).tiny))
    heaviest = np.maximum(np.max([np.abs(part).max(0) for part in weights], axis=0), _LEAST_WEIGHT)
    scales = np.clip(inputs**_SHARE / heaviest ** (1 - _SHARE), _LEAST, _MOST)
    factors: Float32s = (1 / scales).astype(np.float32)
    return factors


def all_smoothing(largest: Mapping[str, Float32s], arrays: Mapping[str, tuple[np.ndarray, ...]]) -> dict[str, Float32s]:
    """The factors of every map, from the weights of the model under our names."""
    return {name: smoothing_of(inputs, arrays[f"encoder.{name}.weight"]) for name, inputs in largest.items()}
