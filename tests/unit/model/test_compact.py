"""Training only the rows in use equals training the full table; weight decay alone changes the other rows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from minilm.model.compact import CompactTable, decay_rows_not_in_use
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.packing import pack
from minilm.recipe import OptimizationSettings
from minilm.train.optim import make_optimizer

USED = [2, 3, 7, 11, 19]


def encoder() -> Encoder:
    config = EncoderConfig(
        **{"vocab_size": 30, "hidden_size": 16, "num_layers": 2, "num_heads": 2},
        **{"intermediate_size": 32, "max_positions": 12, "hidden_dropout": 0.0},
    )
    made = Encoder(config)
    made.reset(torch.Generator().manual_seed(0))
    return made


def train(model: Encoder, steps: int, *, weight_decay: float) -> list[float]:
    """Losses of steps whose learning rate rises."""
    settings = OptimizationSettings(learning_rate=0.01, weight_decay=weight_decay)
    optimizer = make_optimizer(dict(model.named_parameters()), settings)
    draw, losses = np.random.default_rng(0), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * step / steps
        packed = pack([draw.choice(USED, size) for size in (3, 5, 9)])
        optimizer.zero_grad()
        loss = model.pooled(packed).square().sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        decay_rows_not_in_use(model, 1 - 0.01 * step / steps * weight_decay)
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 0.7])
def test_compact_training_equals_full_training(weight_decay):
    full, compact = encoder(), encoder()
    before = full.embeddings.word.weight.detach().clone()
    table = CompactTable(compact.embeddings.word, torch.tensor(USED))
    compact.embeddings.word = table  # type: ignore[assignment]
    expected_losses = train(full, 20, weight_decay=weight_decay)
    assert train(compact, 20, weight_decay=weight_decay) == pytest.approx(expected_losses, rel=1e-5)
    compact.embeddings.word = table.expanded()
    after, expected = compact.embeddings.word.weight, full.embeddings.word.weight
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-5)
    others = [row for row in range(30) if row not in USED]
    torch.testing.assert_close(after[others], expected[others], atol=1e-6, rtol=0)
    assert torch.equal(after[others], before[others]) == (weight_decay == 0)
    assert not torch.equal(after[USED], before[USED])
    assert after.requires_grad


def test_the_state_contains_only_the_rows_in_use_and_loads_again():
    table = CompactTable(encoder().embeddings.word, torch.tensor(USED))
    state = {name: value.clone() for name, value in table.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in state.items()} == {"weight": (5, 16), "decayed": ()}
    other = copy.deepcopy(table)
    torch.nn.init.zeros_(other.weight)
    other.load_state_dict(state)
    assert torch.equal(other(torch.tensor([7, 2])), table(torch.tensor([7, 2])))


def test_an_id_that_is_not_in_use_is_an_error():
    table = CompactTable(encoder().embeddings.word, torch.tensor(USED))
    with pytest.raises(IndexError):
        table(torch.tensor([4]))
