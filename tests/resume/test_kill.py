"""A run killed at any moment and restarted with the same command ends with bit-identical results."""

from __future__ import annotations

import random
import signal
import time

import pytest

from minilm.train.metrics import read_metrics

pytestmark = pytest.mark.slow


def test_fifteen_kills_change_no_bit(tiny, drive, assert_same_run):
    """Kills while files are written, renamed, removed; in the middle of steps; and at random moments."""
    recipe = tiny.recipe(steps=60, tokens_per_batch=128)
    [[_, calls]] = drive(recipe, [("never", 0)], [f"out={tiny.folder / 'unbroken'}"])
    per_checkpoint = calls // 20
    draw = random.Random(11)
    plan: list[tuple[str, float]] = []
    for _ in range(5):
        plan += [
            ("call", draw.randint(15, 15 + 2 * per_checkpoint)),
            ("steps", draw.randint(2, 7)),
            ("within", draw.uniform(1.1, 4.0)),
        ]
    results = drive(recipe, [*plan, ("never", 0)])
    kills = sum(status == -signal.SIGKILL for status, _ in results)
    assert kills >= 10
    assert results[-1][0] == 0
    assert_same_run(tiny.folder / "run", tiny.folder / "unbroken")


def test_kills_while_the_corpus_is_built_change_no_bit(tiny, drive, assert_same_run):
    """Every other call that changes the file system from the start: claim, corpus, first checkpoint."""
    recipe = tiny.recipe(steps=3)
    plan = [("call", number) for number in range(1, 33, 2)]
    results = drive(recipe, [*plan, ("never", 0)])
    assert [status for status, _ in results] == [-signal.SIGKILL] * 16 + [0]
    drive(recipe, [("never", 0)], [f"out={tiny.folder / 'unbroken'}"])
    assert_same_run(tiny.folder / "run", tiny.folder / "unbroken")


def test_kills_after_the_last_step_change_no_bit(tiny, drive, assert_same_run):
    """Publishing model and report: a finished run is restarted, killed at every 19th call, then run to the end."""
    recipe = tiny.recipe(steps=6)
    [[_, calls]] = drive(recipe, [("never", 0)])
    unbroken = tiny.folder / "unbroken"
    drive(recipe, [("never", 0)], [f"out={unbroken}"])
    [[_, again]] = drive(recipe, [("never", 0)])
    assert again < calls
    results = drive(recipe, [*(("call", number) for number in range(12, again + 1, 19)), ("never", 0)])
    assert results[-1][0] == 0
    assert_same_run(tiny.folder / "run", unbroken)


def test_a_killed_command_line_resumes_when_repeated(tiny, start_cli, drive, assert_same_run):
    recipe = tiny.recipe(steps=60, tokens_per_batch=128)
    out = tiny.folder / "run"
    for wanted in (2, 5):
        process = start_cli("distill", recipe)
        while process.poll() is None and len(read_metrics(out)) < wanted:
            time.sleep(0.005)
        process.kill()
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
    process = start_cli("distill", recipe)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "resuming" in errors
    assert output.splitlines()[0].split() == ["student", "parameters", "held-out", "loss", "agreement", "folder"]
    drive(recipe, [("never", 0)], [f"out={tiny.folder / 'unbroken'}"])
    assert_same_run(out, tiny.folder / "unbroken")


def test_kills_of_an_extended_run_change_no_bit(tiny, drive, assert_same_run):
    """A finished run is extended; the extension is killed while files change and in the middle of steps."""
    recipe, unbroken, longer = tiny.recipe(steps=6), tiny.folder / "unbroken", "train.steps=24"
    drive(recipe, [("never", 0)])
    drive(recipe, [("never", 0)], [f"out={unbroken}"])
    [[_, calls]] = drive(recipe, [("never", 0)], [f"out={unbroken}", longer])
    plan = [("steps", 1), ("steps", 2), *(("call", number) for number in range(12, calls // 2, 17)), ("never", 0)]
    results = drive(recipe, plan, [longer])
    assert sum(status == -signal.SIGKILL for status, _ in results) >= 4
    assert results[-1][0] == 0
    assert_same_run(tiny.folder / "run", unbroken)
