"""`minilm mine`, killed at any moment and restarted, gives the same bytes and encodes no text twice.

Its vectors are an index as `minilm index` writes it, so that this is killed and resumed as well.
"""

from __future__ import annotations

import json
import signal

import pytest

NUM_TEXTS, AT_ONCE = 7, 2

pytestmark = pytest.mark.slow


@pytest.fixture
def command(generator_dir, tmp_path):
    """The command line whose output is in a folder."""
    pairs = [{"query": f"w{n}", "positive": f"w{n} w{n + 1}"} for n in range(5)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in pairs))
    (tmp_path / "texts.txt").write_text("".join(f"w{n} w{n + 1}\n" for n in range(NUM_TEXTS)))

    def words(folder):
        folder.mkdir(exist_ok=True)
        inputs = ["--input", str(tmp_path / "pairs.jsonl"), "--corpus", str(tmp_path / "texts.txt")]
        return ["mine", str(generator_dir), *inputs, "--output", str(folder / "out.jsonl")]

    return words


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_kill_at_any_call_changes_nothing(start_bulk, command, tmp_path):
    """Of the first calls every ninth, and all of the last ones, which remove what is no longer needed."""
    unbroken = tmp_path / "unbroken"
    [[_, whole, calls]] = start_bulk([(command(unbroken), 0)])
    assert whole == NUM_TEXTS
    assert calls > 20
    numbers = [*range(1, calls - 3, 9), *range(calls - 3, calls + 1)]
    folders = {number: tmp_path / f"run-{number}" for number in numbers}
    plan = [(command(folder), kill_at) for number, folder in folders.items() for kill_at in (number, 0)]
    results = start_bulk(plan)
    for (number, folder), first, second in zip(folders.items(), results[::2], results[1::2], strict=True):
        (killed, before, _), (status, after, _) = first, second
        assert (killed, status) == (-signal.SIGKILL, 0), number
        # where only the last file of the index was missing, its vectors are computed again
        assert before + after <= NUM_TEXTS + AT_ONCE or after == NUM_TEXTS
        assert contents(folder) == contents(unbroken)
    assert list(contents(unbroken)) == ["out.jsonl"]
