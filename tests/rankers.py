"""Cross-encoders whose scores an activation makes equal, or orders in its own way."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file
from tests.conftest import TinyFinetune

from minilm.model.activations import Activation
from minilm.model.metadata import activation_values


def write_ranker(tiny: TinyFinetune, *, bias: float, activation: Activation) -> Path:
    """Write a cross-encoder with random weights; `bias` is added to its scores, `activation` follows them."""
    folder = tiny.write_classifier("ranker", seed=3, num_labels=1)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] + bias}, folder / "model.safetensors")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **activation_values(activation)}))
    return folder
