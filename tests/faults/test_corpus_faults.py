"""Killed, rejected or memory-starved builds leave no partial corpus, no hanging process, and a clear message."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minilm.corpus.build import build_shards
from minilm.corpus.shards import Shards
from minilm.corpus.tokenizing import tokenize_in_workers
from minilm.errors import DataError, SystemProblem, UsageError
from minilm.files.texts import BAD_ROWS
from minilm.tally import Tally

LINE = "the cat sat on the mat\n"

START = """
import multiprocessing, sys, time
from pathlib import Path
from minilm.corpus.build import build_shards

def pause(progress):
    if list(Path(sys.argv[3]).parent.glob(".corpus.tmp-*/shard-*")):
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        time.sleep(60)

build_shards([Path(sys.argv[1])], tokenizer=Path(sys.argv[2]), out=Path(sys.argv[3]),
             shard_tokens=2000, workers=int(sys.argv[4]), on_progress=pause)
"""

STARVED = """
import resource, sys
from pathlib import Path
from minilm.corpus.build import build_shards
from minilm.errors import SystemProblem

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    build_shards([Path(sys.argv[1])], tokenizer=Path(sys.argv[2]), out=Path(sys.argv[3]))
except SystemProblem as problem:
    print(problem)
"""


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat"]))
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text(LINE * 5000)
    return path


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    source = Path(__file__).resolve().parents[2] / "src"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        text=True,
    )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_build_leaves_no_corpus_and_no_process(workers, vocab, texts, tmp_path):
    out = tmp_path / "corpus"
    process = start(START, texts, vocab, out, workers)
    assert process.stdout is not None
    children = [int(pid) for pid in process.stdout.readline().split()]
    assert process.poll() is None, "the build must be in the middle of its work here"
    process.kill()
    process.wait(timeout=300)
    process.stdout.close()
    assert not out.exists()
    assert len(list(tmp_path.glob(".corpus.tmp-*"))) == 1
    assert len(children) == (workers if workers > 1 else 0)
    deadline = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, "worker processes outlive the build"
        time.sleep(0.05)

    build_shards([texts], tokenizer=vocab, out=out)
    assert len(Shards.open(out, verify=True)) == 5000
    assert list(tmp_path.glob(".corpus.*")) == []


def test_full_disk_is_a_system_problem_and_leaves_nothing(vocab, texts, tmp_path):
    out = tmp_path / "new" / "corpus"
    process = start(STARVED, texts, vocab, out)
    message, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert str(out.parent) in message
    assert message.count("\n") == 1
    assert list(out.parent.iterdir()) == []


def test_dead_worker_is_an_error_not_a_hang(vocab):
    def stream():
        for number in range(100_000):
            if number == 5000:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGKILL)
            yield LINE

    with pytest.raises(SystemProblem, match=r"a tokenizing worker process died.*use fewer workers \(now 2\)"):
        for _ in tokenize_in_workers(stream(), tokenizer=vocab, max_tokens=8, workers=2):
            pass
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_input_ends_the_build(workers, vocab, texts, tmp_path):
    cut = tmp_path / "cut.txt.gz"
    cut.write_bytes(gzip.compress(texts.read_bytes())[:-20])
    with pytest.raises(DataError, match=r"cut\.txt\.gz: the \.gz file is damaged or truncated"):
        build_shards([texts, cut], tokenizer=vocab, out=tmp_path / "corpus", workers=workers)
    assert list(tmp_path.glob("*corpus*")) == []
    assert multiprocessing.active_children() == []


def test_bad_rows_are_counted_with_their_line(vocab, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "the cat"}\n{"text": \n\xff\xfe\n{"text": "sat"}\n')
    tally = Tally()
    manifest = build_shards([path], tokenizer=vocab, out=tmp_path / "corpus", max_bad_rows=1, tally=tally)
    assert (manifest.documents, manifest.bad_rows) == (2, 2)
    assert [row.split(": ")[0] for row in tally[BAD_ROWS].first] == [f"{path}:2", f"{path}:3"]


@pytest.mark.parametrize("workers", [1, 2])
def test_existing_corpus_is_never_touched(workers, vocab, texts, tmp_path):
    out = tmp_path / "corpus"
    build_shards([texts], tokenizer=vocab, out=out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match=r"corpus already exists .*choose another output path"):
        build_shards([texts], tokenizer=vocab, out=out, workers=workers)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
