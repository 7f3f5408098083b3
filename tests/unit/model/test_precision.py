"""A processor has bfloat16 if it multiplies it, not if oneDNN emulates it."""

from __future__ import annotations

import pytest
import torch

from minilm.model.precision import has_bf16


@pytest.mark.parametrize(
    ("machine", "has_products", "onednn_says", "expected"),
    [
        ("x86_64", False, True, False),  # AVX-512 before the products of bfloat16
        ("x86_64", True, True, True),
        ("aarch64", False, True, True),
        ("aarch64", False, False, False),
    ],
)
def test_bfloat16_is_what_the_processor_multiplies(monkeypatch, machine, has_products, onednn_says, expected):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_products)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn_says)
    assert has_bf16() is expected
