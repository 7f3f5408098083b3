"""A classifier's last layer, with key and value maps applied to first rows, equals the layer over all rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minilm.model.attention import attend_first
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.packing import pack

CONFIG = EncoderConfig(
    vocab_size=50, hidden_size=32, num_layers=1, num_heads=4, intermediate_size=64, max_positions=16,
    hidden_dropout=0.0, initializer_range=0.3,
)  # fmt: skip
BATCH = pack([np.full(length, 7, dtype=np.int32) for length in (1, 4, 4, 9, 4)])


def over_all_rows(layer, hidden, packed):
    query, key, value = layer.project(hidden)
    return layer._finish(hidden[packed.first_rows], attend_first(query[packed.first_rows], key, value, packed))


def outcome(run, dtype, *, autocast):
    """Output, and gradients of the input and of all weights."""
    encoder = Encoder(CONFIG)
    encoder.reset(torch.Generator().manual_seed(1))
    layer = encoder.layers[0].to(dtype)
    with torch.no_grad():
        layer.qkv.bias.normal_(generator=torch.Generator().manual_seed(2))
    hidden = torch.randn(22, 32, generator=torch.Generator().manual_seed(3)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = run(layer, hidden, BATCH)
    found.float().square().sum().backward()
    return [found.detach(), hidden.grad, *(weight.grad for weight in layer.parameters())]


def by_first_rows(layer, hidden, packed):
    return layer.forward_first(hidden, packed)


def test_output_and_gradients_equal_those_over_all_rows():
    expected, found = (outcome(run, torch.float32, autocast=False) for run in (over_all_rows, by_first_rows))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float32, True), (torch.bfloat16, False)])
def test_half_precision_costs_no_more_than_over_all_rows(dtype, autocast):
    exact = outcome(over_all_rows, torch.float32, autocast=False)

    def error(run):
        found = outcome(run, dtype, autocast=autocast)
        distances = [(one.float() - other).norm() / other.norm() for one, other in zip(found, exact, strict=True)]
        return float(torch.stack(distances).mean())

    assert 0 < error(by_first_rows) < 1.5 * error(over_all_rows)
