"""A stop by SIGTERM leaves nothing half written, and commands read and write standard streams as they do files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SOURCES = 150


@pytest.fixture
def environment(repo_dir: Path) -> dict[str, str]:
    """The environment of a user of this checkout."""
    return {**os.environ, "PYTHONPATH": str(repo_dir / "src"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def stopped(environment, forked, tmp_path):
    """`stopped(words, when)`: run the command, send SIGTERM as soon as `when()` is true; its exit code and errors."""

    def run(words, when) -> tuple[int, str]:
        command = [str(forked / "minilm"), *map(str, words)]
        running = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        deadline = time.monotonic() + 120
        while not when():
            assert running.poll() is None, running.stderr.read().decode()
            assert time.monotonic() < deadline, "it writes nothing"
            time.sleep(0.002)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=120)
        return running.returncode, said.decode()

    return run


def left(folder: Path) -> list[str]:
    """Hidden files and folders: what is written aside."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_a_stopped_prediction_leaves_no_file(stopped, tiny_task):
    classifier = tiny_task.write_classifier("classifier", seed=1, num_labels=3)
    source, folder = tiny_task.folder / "many.txt", tiny_task.folder / "out"
    folder.mkdir()
    source.write_text("word1 word2 word3 word4\n" * 60_000)
    words = ["predict", classifier, "--input", source, "--output", folder / "out.csv"]
    code, said = stopped(words, lambda: left(folder))
    assert (code, said.splitlines()[-1]) == (130, "error: interrupted")
    assert list(folder.iterdir()) == []


def test_a_stopped_corpus_leaves_no_folder(stopped, tiny):
    source, folder = tiny.folder / "many.txt", tiny.folder / "out"
    folder.mkdir()
    source.write_text("word1 word2 word3 word4\n" * 150_000)
    words = ["corpus", "build", "--input", source, "--tokenizer", tiny.teacher, "--out", folder / "corpus"]
    code, said = stopped(words, lambda: left(folder))
    assert (code, said.splitlines()[-1]) == (130, "error: interrupted")
    assert list(folder.iterdir()) == []


def test_a_stopped_generation_leaves_only_its_journal_and_resumes(
    stopped, generator_dir, forked, environment, tmp_path
):
    source, folder = tmp_path / "in.txt", tmp_path / "out"
    folder.mkdir()
    source.write_text("".join(f"w{n % 60} w{n % 7} w{n % 13}\n" for n in range(SOURCES)))
    words = ["generate", generator_dir, "--input", source, "--output", folder / "out.csv", "--batch-tokens", "64"]
    journal = folder / ".out.csv.unfinished"
    code, said = stopped(words, lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2)
    assert code == 130
    assert f"stopped by the user; run the same command to finish {folder / 'out.csv'}" in said
    assert left(folder) == [journal.name]
    finished = journal.read_bytes().count(b"\n") - 1
    done = subprocess.run(
        [forked / "minilm", *words], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert 0 < finished < SOURCES
    assert f"resuming: {finished} of {SOURCES} rows are finished" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["out.csv"]
    assert len((folder / "out.csv").read_text().splitlines()) == SOURCES + 1


def test_a_pipeline_of_commands_needs_no_file(forked, environment, generator_dir, tmp_path):
    """Texts in, targets out, scored: every command reads the stream that the one before it writes."""
    (tmp_path / "gold.txt").write_text("w1 w2\nw3\n")
    minilm = forked / "minilm"
    line = (
        f"printf 'w1 w2\\nw3\\n' | {minilm} generate {generator_dir} --input - --input-format text --output - | "
        f"{minilm} score rouge --predictions - --references {tmp_path / 'gold.txt'} --json"
    )
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"] == 2
