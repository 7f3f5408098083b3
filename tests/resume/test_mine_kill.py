"""`minilm mine`, killed at any moment and restarted, gives the same bytes and encodes or scores no text twice.

Its vectors are an index as `minilm index` writes it, so that this is killed and resumed as well.
"""

from __future__ import annotations

import json
import signal

import pytest

NUM_TEXTS, AT_ONCE = 7, 2
NUM_PAIRS, PAIRS_AT_ONCE = 14, 6  # a reranker scores the positive of a query and the texts with a word of it

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tiny_task, tmp_path):
    """The command line whose output is in a folder; "MODEL" is a model of vectors, "RERANKER" one of scores."""
    pairs = [{"query": f"word{n}", "positive": f"word{n} word{n + 1}"} for n in range(5)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in pairs))
    (tmp_path / "texts.txt").write_text("".join(f"word{n} word{n + 1}\n" for n in range(NUM_TEXTS)))
    models = {"MODEL": tiny_task.model, "RERANKER": tiny_task.write_classifier("reranker", seed=3, num_labels=1)}
    inputs = ["--input", str(tmp_path / "pairs.jsonl"), "--corpus", str(tmp_path / "texts.txt")]

    def words(how, folder):
        folder.mkdir(exist_ok=True)
        return ["mine", *(str(models.get(word, word)) for word in how), *inputs, "--output", str(folder / "out.jsonl")]

    return words


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("how", "computed", "at_once"),
    [
        (["MODEL"], NUM_TEXTS, AT_ONCE),
        (["bm25"], 0, 0),
        (["bm25", "--rerank", "RERANKER"], NUM_PAIRS, PAIRS_AT_ONCE),
    ],
)
def test_a_kill_at_any_call_changes_nothing(how, computed, at_once, start_bulk, command, tmp_path):
    """Of the first calls every ninth, and all of the last ones, which remove what is no longer needed."""
    if "bm25" in how:
        pytest.importorskip("bm25s", reason="BM25 is not installed: pip install 'minilm[search]'")
    unbroken = tmp_path / "unbroken"
    [[_, whole, calls]] = start_bulk([(command(how, unbroken), 0)])
    assert whole == computed
    numbers = sorted({*range(1, calls - 3, 9), *range(max(1, calls - 3), calls + 1)})
    folders = {number: tmp_path / f"run-{number}" for number in numbers}
    plan = [(command(how, folder), kill_at) for number, folder in folders.items() for kill_at in (number, 0)]
    results = start_bulk(plan)
    for (number, folder), first, second in zip(folders.items(), results[::2], results[1::2], strict=True):
        (killed, before, _), (status, after, _) = first, second
        assert (killed, status) == (-signal.SIGKILL, 0), number
        # where only the last file of the index was missing, its vectors are computed again
        assert before + after <= computed + at_once or after == computed
        assert contents(folder) == contents(unbroken)
    assert list(contents(unbroken)) == ["out.jsonl"]
