"""A chain killed in any stage and restarted with the same command ends with bit-identical models."""

from __future__ import annotations

import signal

import pytest

pytestmark = pytest.mark.slow


def test_kills_in_each_stage_change_no_bit(tiny, drive, assert_same_run):
    """In the middle of steps of both stages, and at calls that change the file system all over the chain."""
    recipe, unbroken = tiny.chain(steps=6), tiny.folder / "unbroken"
    [[_, calls]] = drive(recipe, [("never", 0)], [f"out={unbroken}"])
    # the chain has 12 steps; the second start resumes the first stage at step 3, the third is in the second stage
    plan = [("steps", 5), ("steps", 4), ("steps", 4), *(("call", number) for number in range(5, calls // 2, 23))]
    results = drive(recipe, [*plan, ("never", 0)])
    assert [status for status, _ in results[:3]] == [-signal.SIGKILL] * 3
    assert results[-1][0] == 0
    for stage in ("1", "2"):
        assert_same_run(tiny.folder / "run" / "stages" / stage, unbroken / "stages" / stage)
    models = [(folder / "model" / "model.safetensors").read_bytes() for folder in (tiny.folder / "run", unbroken)]
    assert models[0] == models[1]
