"""Prepacked maps equal plain ones, with fused and separate activations."""

from typing import get_args

import pytest
import torch

from minilm.model import prepacked
from minilm.model.config import FeedForwardActivation
from minilm.model.encoder import ActivatedLinear


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("fuses", [True, False])
@pytest.mark.parametrize("activation", get_args(FeedForwardActivation))
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_prepacked_equals_plain(rows, activation, fuses, monkeypatch):
    monkeypatch.setattr(prepacked, "_FUSES_GELU", fuses)
    torch.manual_seed(0)
    module = torch.nn.Sequential(ActivatedLinear(24, 40, activation), torch.nn.Linear(40, 24)).requires_grad_(False)
    hidden = 3 * torch.randn(rows, 24)  # both tails of the GELU
    plain, before = module(hidden), hidden.clone()
    prepacked.prepack(module)
    assert all(isinstance(part, prepacked.PrepackedLinear) for part in module)
    torch.testing.assert_close(module(hidden), plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(hidden, before)
