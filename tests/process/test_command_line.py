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
