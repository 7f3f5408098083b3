"""The command line as a process: what its start imports, closed and full outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "pydantic", "rich", "yaml", "numpy", "pyarrow", "tokenizers"}


@pytest.fixture
def environment(repo_dir: Path) -> dict[str, str]:
    """The environment of a user of this checkout."""
    return {**os.environ, "PYTHONPATH": str(repo_dir / "src")}


@pytest.fixture
def loaded(environment: dict[str, str]) -> Callable[[str], set[str]]:
    """`loaded(code)`: the top-level modules that a new Python has imported after `code`."""

    def run(code: str) -> set[str]:
        code += "\nimport sys; print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, timeout=300
        )
        return set(done.stdout.rpartition("loaded:")[2].split())

    return run


@pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["recipes", "--help"], ["doctor", "-h"]])
def test_help_imports_nothing_heavy(loaded, arguments):
    """Time is noisy; the list of imported modules is not. (Inside a verb, typer itself uses pydantic.)"""
    found = loaded(
        "from minilm.cli.app import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as done:\n    assert done.code == 0"
    )
    assert "minilm" in found
    assert not found & (HEAVY if arguments == ["--help"] else HEAVY - {"pydantic"})


def test_importing_a_verb_imports_nothing_heavy(loaded):
    assert not loaded("import minilm.cli.corpus") & (HEAVY - {"pydantic", "rich"})


def test_importing_storage_imports_no_torch(loaded):
    assert "torch" not in loaded("import minilm.files.tensors, minilm.text.tokenizer")


def test_a_closed_pipe_is_quiet(environment):
    """`minilm recipes list | head -0` leaves no traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "minilm.cli.app", "recipes", "list"]
    done = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment, check=False, timeout=300
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_full_disk_is_exit_code_4(environment):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = [sys.executable, "-m", "minilm.cli.app", "recipes", "show", "tiny-embedded"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False, timeout=300
        )
    assert done.returncode == 4
    assert done.stderr.startswith("error: the disk is full: free some space")


def test_a_reader_that_stops_early_ends_it_quietly_and_truncation_is_reported(environment, forked, tiny_task):
    """`minilm predict ... --output - | head -1` is a success."""
    trained = [forked / "minilm", "finetune", tiny_task.recipe(steps=6)]
    assert subprocess.run(trained, env=environment, capture_output=True, check=False, timeout=300).returncode == 0
    source = tiny_task.folder / "many.jsonl"
    lines = [json.dumps({"text": "word1 " * (200 if number == 3 else 2)}) + "\n" for number in range(9000)]
    source.write_text("".join(lines))
    command = [forked / "minilm", "predict", tiny_task.folder / "run/model", "--input", "-", "--output", "-"]
    with source.open() as stream:
        running = subprocess.Popen(
            command, stdin=stream, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        assert json.loads(running.stdout.readline())["id"] == "0"
        running.stdout.close()
        reported = running.stderr.read().decode()
        running.stderr.close()
    assert running.wait(timeout=300) == 0
    assert "Traceback" not in reported
    assert "texts were longer than" in reported


CLOSED = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", ">&- 2>/dev/full"]


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize(("arguments", "code"), [("recipes list", 0), ("recipes show none", 2), ("score glue", 2)])
def test_closed_streams_change_no_exit_code_and_give_no_traceback(environment, closed, arguments, code):
    line = f'exec "{sys.executable}" -m minilm.cli.app {arguments} {closed}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment, check=False, timeout=300)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert b"rror:" not in done.stdout  # no message goes to the other stream


def test_work_is_done_without_streams(environment, forked, tiny_task):
    """Training and prediction leave the same files as with them; nothing is written into them by accident.

    A fork cannot start with closed streams, but with a full disk as its stream of errors.
    """
    recipe, out = tiny_task.recipe(steps=6), tiny_task.folder / "out.jsonl"
    model, rows = tiny_task.folder / "run" / "model", tiny_task.folder / "dev.jsonl"
    train = f'"{sys.executable}" -m minilm.cli.app finetune {recipe}'
    predict = f"{forked / 'minilm'} predict {model} --input {rows} --output {out}"
    line = f"{train} >&- 2>&- && {predict} 2>/dev/full"
    done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0
    assert [json.loads(row)["id"] for row in out.read_text().split("\n") if row] == [
        f"dev.jsonl-{n}" for n in range(30)
    ]
    assert (tiny_task.folder / "run" / "report.html").exists()


def test_a_closed_output_cannot_be_the_standard_output(environment, tiny_task):
    line = f'"{sys.executable}" -m minilm.cli.app predict {tiny_task.model} --input x.jsonl --output - >&-'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --output is -, but that stream is closed; name a file or open it\n"
