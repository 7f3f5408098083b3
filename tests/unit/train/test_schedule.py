"""The learning rate schedule: warmup from 0, then decay that reaches 0 just after the last update."""

from __future__ import annotations

import pytest

from minilm.train.schedule import linear_schedule


def test_the_rate_warms_up_and_then_decays():
    factors = [linear_schedule(step, warmup_steps=2, total_steps=6) for step in range(8)]
    assert factors == [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


@pytest.mark.parametrize(("warmup", "expected"), [(0, [1.0, 0.75, 0.5, 0.25]), (4, [0.0, 0.25, 0.5, 0.75])])
def test_warmup_may_be_none_or_the_whole_run(warmup, expected):
    assert [linear_schedule(step, warmup_steps=warmup, total_steps=4) for step in range(4)] == expected


def test_it_is_the_schedule_of_bert():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = transformers.get_linear_schedule_with_warmup(optimizer, 7, 50)
    for step in range(50):
        assert linear_schedule(step, warmup_steps=7, total_steps=50) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
