"""`minilm mine` and `minilm index`, killed at any moment and restarted, give the same bytes and encode texts once."""

from __future__ import annotations

import json
import signal

import pytest

NUM_TEXTS, AT_ONCE = 7, 2

pytestmark = pytest.mark.slow


@pytest.fixture
def commands(generator_dir, tmp_path):
    """The command line of each verb, for a folder."""
    pairs = [{"query": f"w{n}", "positive": f"w{n} w{n + 1}"} for n in range(5)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in pairs))
    (tmp_path / "texts.txt").write_text("".join(f"w{n} w{n + 1}\n" for n in range(NUM_TEXTS)))

    def words(verb, folder):
        folder.mkdir(exist_ok=True)
        if verb == "index":
            return ["index", str(generator_dir), "--input", str(tmp_path / "texts.txt"), "--output", f"{folder}/index"]
        inputs = ["--input", str(tmp_path / "pairs.jsonl"), "--corpus", str(tmp_path / "texts.txt")]
        return ["mine", str(generator_dir), *inputs, "--output", str(folder / "out.jsonl")]

    return words


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["index", "mine"])
def test_a_kill_at_any_call_changes_nothing(start_bulk, commands, tmp_path, verb):
    unbroken = tmp_path / "unbroken"
    [[_, whole, calls]] = start_bulk([(commands(verb, unbroken), 0)])
    assert whole == NUM_TEXTS
    assert calls > NUM_TEXTS // AT_ONCE
    folders = {number: tmp_path / f"run-{number}" for number in range(1, calls + 1)}
    plan = [(commands(verb, folder), kill_at) for number, folder in folders.items() for kill_at in (number, 0)]
    results = start_bulk(plan)
    for number, folder in folders.items():
        (killed, before, _), (status, after, _) = results[2 * number - 2 : 2 * number]
        finished = verb == "index" and killed == -signal.SIGKILL and status == 2  # its last call had completed it
        assert (killed, status) == (-signal.SIGKILL, 0) or (finished and number == calls)
        assert before + after <= NUM_TEXTS + AT_ONCE or after == NUM_TEXTS
        assert contents(folder) == contents(unbroken), number
