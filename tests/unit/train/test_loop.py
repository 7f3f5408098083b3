"""A step does not depend on its split into microbatches, bad steps change nothing, and logs are right."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.host_reads import HostReads
from torch import Tensor, nn

from minilm import progress
from minilm.corpus.build import build_shards
from minilm.corpus.shards import Shards
from minilm.distill.criterion import RelationCriterion
from minilm.distill.objective import DistillObjective, ObjectiveSettings
from minilm.distill.relation_loss import V2_PAIRS
from minilm.distill.teacher import load_teacher
from minilm.errors import DataError, Interrupted
from minilm.files.tensors import read_safetensors
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.packing import Packed, pack
from minilm.train import loop
from minilm.train.accumulate import Backward, Microbatches, PartLoss, StepLoss, accumulate
from minilm.train.distributed import kept_generators
from minilm.train.loop import Event, TrainSettings, accumulate_in, train
from minilm.train.metrics import means, read_metrics


@dataclass(frozen=True)
class Batch:
    packed: Packed
    factor: float

    @property
    def num_tokens(self) -> int:
        return self.packed.num_tokens

    def tensors(self) -> Mapping[str, Tensor]:
        return self.packed.tensors()


class Toy:
    """Loss factor * (w - 3)^2 / 2 in two microbatches; `factors[step]` may be NaN or infinite."""

    def __init__(self, factors: Sequence[float] = ()) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        self.other = nn.Parameter(torch.full((3,), 5.0))
        self.module.register_parameter("other", self.other)
        nn.init.constant_(self.module.weight, 1.0)
        self.factors = factors
        self.evaluations = 0

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    @property
    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        return [[self.module.weight], [self.other]]

    def batch(self, step: int) -> Microbatches[Batch]:
        factor = self.factors[step] if step < len(self.factors) else 1.0
        tokens = [np.array([2, step + 5, 3]), np.array([2, 3])]
        return Microbatches(parts=[Batch(pack(tokens[:1]), 1.0), Batch(pack(tokens[1:]), factor)])

    def accumulate(self, batch: Microbatches[Batch], backward: Backward) -> StepLoss:
        return accumulate(map(self.loss, batch.parts), backward)

    def loss(self, batch: Batch) -> PartLoss:
        near = 0.5 * batch.factor * ((self.module.weight - 3) ** 2).sum() / 2
        far = 0.5 * batch.factor * 1e4 * (self.other**2).sum() / 2
        return PartLoss(value=near + far, parts={"near": near, "far": far})

    def evaluate(self) -> Mapping[str, float]:
        self.evaluations += 1
        return {"distance": float((self.module.weight.detach() - 3).abs())}


def settings(**values: object) -> TrainSettings:
    chosen = {"steps": 6, "learning_rate": 0.1, "weight_decay": 0.0, "log_every": 2, **values}
    return TrainSettings(**{"warmup_steps": 0, "seed": 42, "label": "test", **chosen})  # type: ignore[arg-type]


def test_logged_numbers_are_sums_over_microbatches_and_means_over_steps(tmp_path):
    toy = Toy()
    train(toy, settings(learning_rate=1e-30, steps=5), folder=tmp_path)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [2, 4, 5]
    for row in rows:
        assert row["near"] == pytest.approx(2.0)
        assert row["far"] == pytest.approx(1e4 * 37.5)
        assert row["loss"] == pytest.approx(row["near"] + row["far"])
        assert row["gradient_norm"] == pytest.approx(5e4 * 3**0.5)
        assert row["bad_steps"] == 0
    assert [("distance" in row) for row in rows] == [False, False, True]
    assert rows[0]["learning_rate"] == pytest.approx(0.9e-30)


def test_events_come_in_order_with_the_updates_so_far(tmp_path):
    events: list[tuple[Event, int]] = []
    train(Toy(), settings(steps=2), folder=tmp_path, on_event=lambda *event: events.append(event))
    steps = [[("batch", done), ("accumulated", done), ("stepped", done + 1)] for done in (0, 1)]
    assert events == [*steps[0], *steps[1], ("saved", 2)]


def test_more_scores_are_logged_beside_held_out_metrics(tmp_path):
    """Where they are due, also without an evaluation; the last ones are among the numbers that the run returns."""
    more = {3: {"probe": 1.0}, 6: {"probe": 2.0}}
    found = train(Toy(), settings(eval_every=4), folder=tmp_path, more_scores=lambda step: more.get(step, {}))
    rows = {row["step"]: row for row in read_metrics(tmp_path)}
    assert {step: row["probe"] for step, row in rows.items() if "probe" in row} == {3: 1.0, 6: 2.0}
    assert [step for step, row in rows.items() if "distance" in row] == [4, 6]
    assert found == {"probe": 2.0, "distance": rows[6]["distance"]}


def test_ctrl_c_in_an_inner_run_stops_the_outer_one_after_its_step(tmp_path):
    """The inner run ends first, its score is logged, and the state is saved: resumed, the two are one run."""

    def probe(step: int) -> Mapping[str, float]:
        inner = Toy()
        if step == 3 and not resumed:
            os.kill(os.getpid(), signal.SIGINT)
        train(inner, settings(label="inner"), is_inner=True)
        return {"probe": float(inner.module.weight.detach())}

    resumed = False
    with pytest.raises(Interrupted, match="stopped by the user at step 3"):
        train(Toy(), settings(), folder=tmp_path / "stopped", more_scores=probe)
    resumed = True
    for folder in ("stopped", "whole"):
        train(Toy(), settings(), folder=tmp_path / folder, more_scores=probe)
    rows = [
        [{name: row[name] for name in ("step", "loss", "probe")} for row in read_metrics(tmp_path / folder)]
        for folder in ("stopped", "whole")
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]


def test_freed_memory_is_watched_at_each_step_and_released_at_the_end(monkeypatch):
    calls = []
    monkeypatch.setattr(loop.FreedMemory, "after_step", lambda _: calls.append("step"))
    monkeypatch.setattr(loop.FreedMemory, "give_back", lambda _: calls.append("end"))
    train(Toy(), settings(steps=3))
    assert calls == ["step", "step", "end"]


def test_each_group_is_clipped_alone(monkeypatch):
    """A huge gradient in one group does not affect the direction and norm of the other."""
    toy, seen = Toy(), []
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda _: seen.append((toy.module.weight.grad.clone(), toy.other.grad.clone()))
    )
    train(toy, settings(steps=1, max_grad_norm=1.5))
    near, far = seen[0]
    assert near.item() == pytest.approx(-1.5)
    assert far.norm().item() == pytest.approx(1.5)
    train(toy, settings(steps=1, max_grad_norm=0.0))
    assert seen[1][0].item() == pytest.approx(-2.0)
    assert seen[1][1].norm().item() == pytest.approx(5e4 * 3**0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_step_without_a_finite_loss_changes_nothing_and_is_counted(tmp_path, bad, caplog):
    toy = Toy([1.0, bad, 1.0, bad])
    weights: list[Tensor] = []

    def watch(event: Event, _: int) -> None:
        if event == "stepped":
            weights.append(toy.module.weight.detach().clone())

    train(toy, settings(), folder=tmp_path, on_event=watch)
    assert torch.equal(weights[1], weights[0])
    assert torch.equal(weights[3], weights[2])
    assert not torch.equal(weights[2], weights[1])
    rows = read_metrics(tmp_path)
    assert [row["bad_steps"] for row in rows] == [1, 2, 2]
    assert rows[0]["near"] == pytest.approx(2.0)  # the mean of the one good step
    json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)
    assert "step 2: loss or gradient is not finite" in caplog.text


def test_a_gradient_that_is_not_finite_is_a_bad_step_too():
    toy = Toy()
    toy.module.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = toy.module.weight.detach().clone()
    train(toy, settings(steps=3))
    assert torch.equal(toy.module.weight, before)


def test_too_many_bad_steps_stop_the_run_and_leave_the_batch(tmp_path):
    toy = Toy([1.0, float("nan"), 1.0, float("nan")])
    with pytest.raises(DataError) as caught:
        train(toy, settings(max_bad_steps=1, checkpoint_every=1), folder=tmp_path)
    file = tmp_path / "bad-batch-step-00000004.safetensors"
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "step 4: 2 steps had a loss or gradient that is not finite (train.max_bad_steps is 1); "
        f"the last batch is in {file}; lower train.learning_rate or check the data"
    )
    saved = read_safetensors(file)
    assert saved["0.token_ids"].tolist() == [2, 8, 3]
    assert saved["1.cu_seqlens"].tolist() == [0, 2]
    assert len(saved) == 6
    with pytest.raises(DataError, match=r"^step 4: 2 steps had"):  # the count survives in the checkpoint
        train(Toy(toy.factors), settings(max_bad_steps=1, checkpoint_every=1), folder=tmp_path)


def test_evaluation_is_due_at_its_interval_and_once_at_the_end(tmp_path):
    toy = Toy()
    result = train(toy, settings(steps=7, eval_every=3, log_every=100), folder=tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path)] == [3, 6, 7]
    assert all("distance" in row for row in read_metrics(tmp_path))
    assert toy.evaluations == 3
    assert result == {"distance": read_metrics(tmp_path)[-1]["distance"]}


def test_evaluating_more_often_changes_no_weight():
    results = []
    for every in (0, 1):
        toy = Toy()
        train(toy, settings(eval_every=every))
        results.append(toy.module.weight.detach().clone())
    assert torch.equal(*results)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(Toy(), settings(checkpoint_every=1))
    assert list(tmp_path.iterdir()) == []


def test_lines_in_a_pipe_show_loss_speed_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    train(Toy(), settings(steps=3, label="distill"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    line = r"distill 1/3  loss [\d.]+  [\d,]+ tokens/s  [\d.]+ GiB  \d+:\d\d:\d\d left"
    assert re.fullmatch(line, lines[0]), lines[0]


def test_means_leave_out_what_is_not_finite():
    rows = [{"a": 1.0, "b": float("inf")}, {"a": float("nan"), "b": -float("inf")}, {"a": 2.0}]
    found = means(rows)
    assert found["a"] == 1.5
    assert np.isnan(found["b"])


@pytest.fixture
def objective(tiny):
    """Creates the objective of two students without dropout, for any token budget."""
    build_shards([tiny.text], tokenizer=tiny.teacher, out=tiny.folder / "corpus", max_tokens=32)
    teacher, shards = load_teacher(tiny.teacher), Shards.open(tiny.folder / "corpus")

    def make(tokens_per_batch: int, normalization: str = "sequence") -> DistillObjective:
        students = {}
        for number, width in enumerate((24, 48)):
            config = EncoderConfig(
                vocab_size=100, hidden_size=width, num_layers=2, num_heads=6, intermediate_size=32,
                max_positions=64, hidden_dropout=0.0,
            )  # fmt: skip
            students[f"s{number}"] = Encoder(config)
            students[f"s{number}"].reset(torch.Generator().manual_seed(number))
        criterion = RelationCriterion(
            teacher=teacher, students=students, layers=dict.fromkeys(students, ((2, 3),)),
            pairs=dict.fromkeys(V2_PAIRS, 1.0), num_relation_heads=12,
            normalization=normalization,  # type: ignore[arg-type]
        )  # fmt: skip
        chosen = ObjectiveSettings(
            normalization=normalization, batch_size=24,  # type: ignore[arg-type]
            tokens_per_batch=tokens_per_batch, num_heldout=20, seed=1,
        )  # fmt: skip
        return DistillObjective(criterion, shards, chosen)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["sequence", "token"])
def test_any_split_into_microbatches_gives_the_same_gradient(objective, normalization):
    gradients, totals, counts = [], [], []
    for budget in (10_000, 100, 32):
        made = objective(budget, normalization)
        batch = made.batch(3)
        counts.append(len(batch.parts))
        loss = accumulate_in("fp32", made, batch)
        assert float(sum(loss.parts.values())) == pytest.approx(float(loss.value))
        totals.append(float(loss.value))
        gradients.append({name: parameter.grad for name, parameter in made.parameters.items()})
    assert counts[0] == 1 < counts[1] < counts[2]
    for total, found in zip(totals[1:], gradients[1:], strict=True):
        assert total == pytest.approx(totals[0], rel=1e-6)
        for name, expected in gradients[0].items():
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_heldout_loss_does_not_depend_on_the_split(objective):
    one, many = objective(10_000).evaluate(), objective(32).evaluate()
    assert one.keys() == many.keys() >= {"s0.heldout_loss", "s1.heldout_loss", "s0.agreement", "s1.agreement"}
    assert all(one[name] == pytest.approx(many[name], rel=1e-5) for name in one)


@pytest.mark.slow
def test_only_what_is_trained_gets_a_gradient(objective):
    made = objective(10_000)
    accumulate_in("fp32", made, made.batch(0))
    got = {name for name, parameter in made.module.named_parameters() if parameter.grad is not None}
    assert got == made.parameters.keys()
    assert not any("layers.1.ffn" in name or "pooler" in name for name in got)


@pytest.mark.slow
def test_bf16_trains_in_its_precision_with_weights_in_float32(objective):
    exact, rounded = objective(10_000), objective(10_000)
    first = accumulate_in("fp32", exact, exact.batch(0)).value.item()
    second = accumulate_in("bf16", rounded, rounded.batch(0)).value.item()
    assert second != first
    assert second == pytest.approx(first, rel=0.05)
    assert all(parameter.grad.dtype == torch.float32 for parameter in rounded.parameters.values())


@pytest.mark.slow
def test_the_heldout_loss_goes_down(objective, tmp_path: Path):
    made = objective(10_000)
    before = made.evaluate()
    after = train(made, settings(steps=12, learning_rate=2e-2), folder=tmp_path)
    losses = ("s0.heldout_loss", "s1.heldout_loss")
    assert all(after[name] < 0.99 * before[name] for name in losses), (before, after)


@pytest.mark.slow
def test_no_number_is_read_while_a_step_is_accumulated(objective):
    """However many microbatches it has: all are read together, after the norms of the gradient."""
    made = objective(32)
    batch = made.batch(3)
    assert len(batch.parts) > 3
    with HostReads() as reads:
        float(torch.ones(()))
        assert reads.count == 1
        accumulate_in("fp32", made, batch)
    assert reads.count == 1


def test_the_numbers_of_a_step_are_sums_in_double_precision_in_the_order_of_its_parts():
    values = torch.tensor([1e8, 1.0, -1e8, 3.0])
    loss = accumulate((PartLoss(value=value, parts={"a": 2 * value}) for value in values), lambda value: value)
    assert loss.value.item() == sum(values.tolist()) == 4.0
    assert loss.parts["a"].item() == 8.0


def test_generators_are_kept_and_only_the_own_gpu_is_initialized(monkeypatch):
    """By default torch initializes all GPUs of a machine in each of its processes."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with kept_generators():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    asked: list[int] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: asked.append(device))
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: asked.append(device))
    with kept_generators():
        pass
    assert asked == [3, 3]
