"""Which weights are kept, when a run stops early, and that a kill changes neither."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from minilm.model.packing import pack
from minilm.train.accumulate import Backward, Microbatches, PartLoss, StepLoss, accumulate
from minilm.train.best import Best, BestRule, comparable, load_best
from minilm.train.loop import TrainSettings, train
from minilm.train.metrics import read_metrics


class Counting:
    """One weight that increases by about 1 per step; evaluation k returns `scores[k]` or kills the process."""

    def __init__(self, scores: Sequence[float], *, kill_at: int = -1) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.scores, self.kill_at = scores, kill_at

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    @property
    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        return [list(self.module.parameters())]

    def batch(self, step: int) -> Microbatches:
        self.step = step
        return Microbatches(parts=[pack([np.array([1, 2])])])

    def accumulate(self, batch: Microbatches, backward: Backward) -> StepLoss:
        return accumulate([PartLoss(value=-self.module.weight.sum())], backward)

    def evaluate(self) -> Mapping[str, float]:
        if self.step + 1 == self.kill_at:
            raise KeyboardInterrupt
        return {"score": self.scores[self.step]}


def settings(steps: int, patience: int = 0) -> TrainSettings:
    return TrainSettings(
        steps=steps,
        warmup_steps=0,
        seed=42,
        label="test",
        learning_rate=1.0,
        weight_decay=0.0,
        eval_every=1,
        checkpoint_every=1,
        best=BestRule(metric="score", patience=patience),
    )


def test_the_weights_of_the_first_highest_number_are_kept(tmp_path):
    task = Counting([1.0, 5.0, 2.0, 5.0])
    weights = []
    evaluate = task.evaluate
    task.evaluate = lambda: (weights.append(task.module.weight.detach().clone()), evaluate())[1]  # type: ignore[method-assign]
    assert train(task, settings(4), folder=tmp_path) == {"score": 5.0}
    step, numbers, kept = load_best(tmp_path)
    assert (step, numbers) == (2, {"score": 5.0})
    assert torch.equal(kept["weight"], weights[1])
    assert not torch.equal(weights[1], weights[3])


def test_a_run_stops_after_patience_evaluations_without_a_better_one(tmp_path):
    task = Counting([1.0, 3.0, 2.0, 3.0, 9.0, 9.0])
    train(task, settings(6, patience=2), folder=tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    train(Counting([0.0] * 6), settings(6, patience=2), folder=tmp_path)  # finished: nothing more is done
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_patience_and_best_survive_a_kill(tmp_path):
    scores = [1.0, 3.0, 2.0, 3.0, 9.0, 9.0]
    with pytest.raises(KeyboardInterrupt):
        train(Counting(scores, kill_at=4), settings(6, patience=2), folder=tmp_path)
    train(Counting(scores), settings(6, patience=2), folder=tmp_path)
    assert load_best(tmp_path)[0] == 2
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_nan_is_never_the_best(tmp_path):
    train(Counting([math.nan, math.nan]), settings(2), folder=tmp_path)
    assert load_best(tmp_path) is None
    assert Best.restore(Best().after(math.nan, 1).stored()) == Best(stale=1)
    train(Counting([math.nan, math.nan, 1.0]), settings(3), folder=tmp_path)
    assert load_best(tmp_path)[0] == 3


@pytest.mark.parametrize(
    ("metric", "worse", "better"),
    [
        ("accuracy", 0.1, 0.2),
        ("heldout_loss", 0.2, 0.1),
        ("dev2.heldout_loss", 3.0, -1.0),
        ("heldout_loss", math.nan, 9.0),
        ("f1", math.nan, 0.0),
    ],
)
def test_a_lower_loss_is_better_and_any_other_number_when_it_is_higher(metric, worse, better):
    assert comparable(metric, better) > comparable(metric, worse)
