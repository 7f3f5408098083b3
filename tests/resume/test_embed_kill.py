"""`minilm embed` killed at any moment and restarted with the same command gives the same bytes and repeats no chunk."""

from __future__ import annotations

import signal

import pytest

NUM_ROWS, ROWS_PER_CHUNK = 5, 2

pytestmark = pytest.mark.slow


@pytest.fixture
def drive(generator_dir, tmp_path, start_bulk):
    """`drive([(folder, kill at call), ...], name, *flags)`: exit status, rows computed and calls of each start."""
    source = tmp_path / "in.txt"
    source.write_text("".join(f"w{n} w{2 * n} w{n + 3}\n" for n in range(NUM_ROWS)))

    def drive(plan, name, *flags):
        def words(folder):
            folder.mkdir(exist_ok=True)
            command = ["embed", str(generator_dir), "--input", str(source), "--output", str(folder / name)]
            return [*command, *(str(source) if flag == "SOURCE" else flag for flag in flags)]

        return start_bulk([(words(folder), kill_at) for folder, kill_at in plan])

    return drive


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_kill_at_any_call_changes_nothing(drive, tmp_path):
    """A chunk is done once its sync has returned: only the one in flight is computed again."""
    [[_, _, calls]] = drive([(tmp_path / "unbroken", 0)], "out.parquet")
    assert calls > NUM_ROWS // ROWS_PER_CHUNK
    folders = {number: tmp_path / f"run-{number}" for number in range(1, calls + 1)}
    results = drive([(folder, kill_at) for n, folder in folders.items() for kill_at in (n, 0)], "out.parquet")
    for number, folder in folders.items():
        (killed, before, _), (status, after, _) = results[2 * number - 2 : 2 * number]
        assert (killed, status) == (-signal.SIGKILL, 0)
        # the last call removes the finished rows: after it the job is done, and the command starts over
        repeated = before + after - NUM_ROWS
        assert 0 <= repeated <= ROWS_PER_CHUNK or (number == calls and after == NUM_ROWS)
        assert contents(folder) == contents(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("out.npy", ["--vectors", "int8", "--calibrate", "SOURCE", "--dimensions", "9"]),
        ("out.jsonl", ["--vectors", "binary"]),
    ],
)
def test_repeated_kills_change_nothing(drive, tmp_path, name, flags):
    """The ranges of int8 are kept as well."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    kills = [3, 2, 4, 3, 4, 5, 6]
    whole, *results = drive([(unbroken, 0), *((broken, kill_at) for kill_at in kills), (broken, 0)], name, *flags)
    assert whole[:2] == [0, NUM_ROWS]
    assert sum(status == -signal.SIGKILL for status, _, _ in results) >= 4
    assert results[-1][0] == 0
    assert contents(broken) == contents(unbroken)
    assert set(contents(broken)) == {name, *([f"{name}.ranges.json"] if "int8" in flags else [])}
