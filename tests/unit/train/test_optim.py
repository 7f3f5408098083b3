"""The decay rule (none on biases and LayerNorm), and the round trip of the optimizer's state as tensors."""

from __future__ import annotations

import pytest
import torch

from minilm.errors import DataError
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.recipe import OptimizationSettings
from minilm.train.optim import (
    is_decayed,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)

SETTINGS = OptimizationSettings(learning_rate=0.1, weight_decay=0.5)


def encoder() -> Encoder:
    config = EncoderConfig(vocab_size=11, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
    model = Encoder(config)
    model.reset(torch.Generator().manual_seed(0))
    return model


def test_biases_and_layernorms_are_not_decayed():
    names = [name for name, _ in encoder().named_parameters()]
    spared = [name for name in names if not is_decayed(name)]
    assert [name for name in names if is_decayed(name)] == [
        "embeddings.word.weight",
        "embeddings.position.weight",
        "embeddings.segment.weight",
        "layers.0.qkv.weight",
        "layers.0.attention_out.weight",
        "layers.0.ffn_in.weight",
        "layers.0.ffn_out.weight",
        "pooler.weight",
    ]
    assert all(name.endswith("bias") or "norm" in name for name in spared)


def test_decay_changes_only_what_is_decayed():
    """With zero gradients, an update is weight decay alone: times 1 - rate * decay, or nothing."""
    model = encoder()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(dict(model.named_parameters()), SETTINGS)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, before[name] * (0.95 if is_decayed(name) else 1.0))


def step(model: Encoder, optimizer: torch.optim.AdamW, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_saved_state_resumes_to_the_same_bits():
    models = [encoder(), encoder()]
    optimizers = [make_optimizer(dict(model.named_parameters()), SETTINGS) for model in models]
    for seed in range(3):
        step(models[0], optimizers[0], seed)
    tensors = optimizer_tensors(optimizers[0], dict(models[0].named_parameters()))
    assert tensors["layers.0.qkv.bias/step"] == 3
    models[1].load_state_dict({name: value.clone() for name, value in models[0].state_dict().items()})
    clones = {name: value.clone() for name, value in tensors.items()}
    load_optimizer_tensors(optimizers[1], dict(models[1].named_parameters()), clones)
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer, 9)
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_before_the_first_update_there_is_no_state():
    model = encoder()
    assert optimizer_tensors(make_optimizer(dict(model.named_parameters()), SETTINGS), {}) == {}


def test_state_of_an_unknown_parameter_is_rejected():
    model = encoder()
    parameters = dict(model.named_parameters())
    with pytest.raises(DataError, match=r"optimizer state of 'layers\.9', which the model does not have"):
        load_optimizer_tensors(make_optimizer(parameters, SETTINGS), parameters, {"layers.9/step": torch.ones(())})
