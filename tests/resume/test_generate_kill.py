"""Generation killed at any moment and restarted with the same command loses and repeats nothing."""

from __future__ import annotations

import signal

import pytest

NUM_SOURCES = 4

pytestmark = pytest.mark.slow


@pytest.fixture
def drive(generator_dir, tmp_path, start_bulk):
    """`drive([(folder, kill at call), ...])`: exit status, searched sources and calls of each start."""
    source = tmp_path / "in.txt"
    source.write_text("".join(f"w{n} w{2 * n} w{n + 3}\n" for n in range(NUM_SOURCES)))
    settings = ["--beam-size", "2", "--max-target-tokens", "6", "--batch-tokens", "1"]

    def words(folder):
        folder.mkdir(exist_ok=True)
        outputs = ["--output", str(folder / "out.jsonl"), "--traces", str(folder / "t.safetensors")]
        return ["generate", str(generator_dir), "--input", str(source), *outputs, *settings]

    return lambda plan: start_bulk([(words(folder), kill_at) for folder, kill_at in plan])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_repeated_kills_change_nothing(drive, tmp_path):
    """Kills before and after syncs, renames and removals, in successive runs of the same job."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    kills = [3, 2, 4, 3, 2, 5, 4, 6, 7]
    whole, *results = drive([(unbroken, 0), *((broken, kill_at) for kill_at in kills), (broken, 0)])
    assert whole[:2] == [0, NUM_SOURCES]
    assert {status for status, _, _ in results} == {0, -signal.SIGKILL}
    assert sum(status != 0 for status, _, _ in results) >= 5
    assert results[-1][0] == 0
    assert contents(broken) == contents(unbroken)
    assert set(contents(broken)) == {"out.jsonl", "t.safetensors"}


def test_a_kill_at_any_call_changes_nothing(drive, tmp_path):
    """A batch is done once its sync has returned: only the one in flight is recomputed, and the output is equal."""
    [[_, _, calls]] = drive([(tmp_path / "unbroken", 0)])
    assert calls > NUM_SOURCES  # each batch (of one source here) is synced
    folders = {number: tmp_path / f"run-{number}" for number in range(1, calls + 1)}
    results = drive([(folder, kill_at) for number, folder in folders.items() for kill_at in (number, 0)])
    for number, folder in folders.items():
        (killed, before, _), (status, after, _) = results[2 * number - 2 : 2 * number]
        assert (killed, status) == (-signal.SIGKILL, 0)
        # the last call removes the finished rows: after it the job is done, and the command starts over
        assert NUM_SOURCES <= before + after <= NUM_SOURCES + 1 or (number == calls and after == NUM_SOURCES)
        assert contents(folder) == contents(tmp_path / "unbroken")
