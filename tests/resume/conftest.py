"""Start runs as processes, and compare two run folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from minilm.distill import run as run_module
from minilm.train.loop import Event, train
from minilm.train.metrics import read_metrics

HERE = Path(__file__).parent
TIMES = {"tokens_per_second", "seconds", "memory_gib"}


def copy_killed(whole: Path, out: Path, *, after: int) -> None:
    """Copy a finished run that kept its checkpoints, as a kill after a step would have left it."""
    shutil.copytree(whole, out)
    for checkpoint in out.glob("checkpoints/step-*"):
        if int(checkpoint.name.removeprefix("step-")) > after:
            shutil.rmtree(checkpoint)
    shutil.rmtree(out / "model")


def stop_at_step(
    monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals = signal.SIGINT, *, times: int = 1
) -> None:
    """Send this process a signal in a step of a distillation."""

    def on_event(event: Event, done: int) -> None:
        if event == "accumulated" and done + 1 == step:
            for _ in range(times):
                signal.raise_signal(number)

    monkeypatch.setattr(run_module, "train", partial(train, on_event=on_event))


def environment() -> dict[str, str]:
    """One thread, so that forked children and command lines compute the same bits."""
    source = str(HERE.parents[1] / "src")
    quiet = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": source}


@pytest.fixture
def drive(forked: Path) -> Callable[..., list[list[int]]]:
    """`drive(recipe, plan, overrides)`: exit status and number of calls of each start; see driver.py."""

    def start(recipe: Path, plan: Sequence[tuple[str, float]], overrides: Sequence[str] = ()) -> list[list[int]]:
        job = json.dumps({"recipe": str(recipe), "plan": list(plan), "overrides": list(overrides)})
        command = [forked / "python", HERE / "driver.py", job]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        results: list[list[int]] = json.loads(done.stdout)
        assert all(status in (0, -9) for status, _ in results), done.stderr
        return results

    return start


@pytest.fixture
def start_cli(forked: Path) -> Callable[..., subprocess.Popen[str]]:
    """`start_cli("distill", recipe, ...)`: the command line as a process."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [forked / "minilm", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())

    return start


@pytest.fixture
def start_bulk(forked: Path) -> Callable[[Sequence[tuple[list[str], int]]], list[list[int]]]:
    """`start_bulk([(command line, kill at call), ...])`: exit status, rows computed and calls; see bulk_driver.py."""

    def start(plan: Sequence[tuple[list[str], int]]) -> list[list[int]]:
        command = [forked / "python", HERE / "bulk_driver.py", json.dumps(plan)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        results: list[list[int]] = json.loads(done.stdout)
        return results

    return start


def _content(out: Path) -> dict[str, object]:
    """Everything in a run that must be bit-identical."""
    newest = max((out / "checkpoints").iterdir())
    files = [*newest.iterdir(), *(path for path in (out / "model").rglob("*") if path.is_file())]
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(out)]
    return {"metrics": rows, **{str(path.relative_to(out)): path.read_bytes() for path in files}}


@pytest.fixture
def assert_same_run() -> Callable[[Path, Path], None]:
    """Two run folders contain the same model, optimizer state, step and metrics, and no partial files."""

    def check(found: Path, expected: Path) -> None:
        ours, theirs = _content(found), _content(expected)
        assert ours.keys() == theirs.keys()
        assert [name for name in theirs if ours[name] != theirs[name]] == []
        hidden = [path for path in found.rglob(".*") if path.name.startswith(".")]
        assert hidden == []

    return check
