"""Event files hold what `metrics.jsonl` holds, also after a resume; without the package a run does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from minilm.distill.run import distill
from minilm.errors import SystemProblem
from minilm.finetune.sweep import finetune
from minilm.recipe import load_recipe
from minilm.train import tensorboard
from minilm.train.metrics import read_metrics

INSTALL = "pip install 'minilm[tensorboard]'"


def events(run: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: name -> step -> value."""
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=f"needs {INSTALL}")
    shown = loading.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    return {tag: {event.step: event.value for event in shown.Scalars(tag)} for tag in shown.Tags()["scalars"]}


def logged(run: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in read_metrics(run):
        for name, value in row.items():
            if name != "step" and value is not None:
                found.setdefault(name.replace(".", "/"), {})[int(row["step"])] = value
    return found


@pytest.mark.slow
def test_they_hold_the_metrics_also_of_a_run_that_was_extended(tiny):
    pytest.importorskip("tensorboard", reason=f"needs {INSTALL}")
    recipe, run = tiny.recipe(log_every=2), tiny.folder / "run"
    for steps in (4, 8):
        distill(load_recipe(recipe, [f"train.steps={steps}", "train.tensorboard=true"]))
    found, expected = events(run), logged(run)
    assert found.keys() == expected.keys() >= {"loss", "student/query-query", "student/agreement"}
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name


@pytest.mark.slow
def test_what_came_after_the_checkpoint_is_replaced(tmp_path):
    pytest.importorskip("tensorboard", reason=f"needs {INSTALL}")
    with tensorboard.event_writer(tmp_path, done=0) as write:
        for step in (1, 2, 3):
            write({"step": step, "a.loss": float(step)})
    with tensorboard.event_writer(tmp_path, done=1) as write:
        write({"step": 2, "a.loss": 20.0})
    assert events(tmp_path) == {"a/loss": {1: 1.0, 2: 20.0}}


def test_without_the_package_no_run_starts(tiny, tiny_task, monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    message = "train.tensorboard is true, but TensorBoard is not installed; install it with: pip install 'minilm"
    for recipe, run in ((tiny.recipe(), distill), (tiny_task.recipe("tuned"), finetune)):
        with pytest.raises(SystemProblem) as caught:
            run(load_recipe(recipe, ["train.tensorboard=true"]))
        assert str(caught.value).startswith(message)
    assert not (tiny.folder / "run" / "checkpoints").exists()


def test_nothing_is_written_unless_asked_for(tmp_path):
    with tensorboard.event_writer(None, done=0) as write:
        write({"step": 1, "loss": 1.0})
    assert not list(tmp_path.iterdir())
