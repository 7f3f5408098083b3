"""METEOR in a separate process: what is sent, what is read, and one clear error for everything that can fail."""

from __future__ import annotations

import os
import stat
import time

import pytest

from minilm.errors import SystemProblem
from minilm.files import meteor_java as meteor
from minilm.files.meteor_java import meteor_counts

ITEMS = [("a  b", ("c", "d ||| e")), ("", ("f",))]
NUM_COUNTS = 23
ROW = " ".join(f"{number}.0" for number in range(NUM_COUNTS))


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Replace java with a shell script, and pycocoevalcap with a package that contains a jar."""
    home = tmp_path / "pycocoevalcap" / "meteor"
    home.mkdir(parents=True)
    (home / "meteor-1.5.jar").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(meteor, "find_spec", lambda name: Spec([str(home.parent)]))

    def write(script: str) -> None:
        program = tmp_path / "bin" / "java"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return write


class Spec:
    def __init__(self, folders: list[str]) -> None:
        self.submodule_search_locations = folders


def test_one_line_goes_out_and_one_row_comes_back_for_each_item(java, tmp_path):
    java(
        f'cat > "{tmp_path}/sent"; echo "$@" > "{tmp_path}/said"; pwd > "{tmp_path}/where"; echo "{ROW}"; echo "{ROW}"'
    )
    counts = meteor_counts(ITEMS, num_counts=NUM_COUNTS)
    assert counts.shape == (2, NUM_COUNTS)
    assert counts[1].tolist() == list(range(NUM_COUNTS))
    assert (tmp_path / "sent").read_text() == "SCORE ||| c ||| d e ||| a b\nSCORE ||| f ||| \n"
    assert (tmp_path / "said").read_text().endswith("-jar meteor-1.5.jar - - -stdio -l en -norm\n")
    assert (tmp_path / "where").read_text().endswith("/pycocoevalcap/meteor\n")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(meteor, "find_spec", lambda name: None)
    with pytest.raises(SystemProblem) as caught:
        meteor_counts(ITEMS, num_counts=NUM_COUNTS)
    assert str(caught.value) == (
        "METEOR is part of the package pycocoevalcap, which is not installed; "
        "install it with: pip install 'minilm[meteor]'"
    )


def test_without_java_the_error_says_so(java, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SystemProblem) as caught:
        meteor_counts(ITEMS, num_counts=NUM_COUNTS)
    assert str(caught.value) == "METEOR needs Java, which was not found; install a Java runtime (8 or newer)"


def test_a_program_that_takes_too_long_is_stopped(java, tmp_path):
    java(f'echo $$ > "{tmp_path}/pid"; exec sleep 60')
    started = time.monotonic()
    with pytest.raises(SystemProblem) as caught:
        meteor_counts(ITEMS, num_counts=NUM_COUNTS, timeout=0.5)
    assert str(caught.value) == "METEOR did not finish 2 items in 0.5 seconds and was stopped; score fewer at a time"
    assert time.monotonic() - started < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("script", "found", "code", "said"),
    [
        ("cat > /dev/null; echo oh >&2; exit 3", "0 answers", 3, "oh"),
        ("cat > /dev/null; echo x; echo y", "malformed answers", 0, "nothing on its error output"),
        (f"cat > /dev/null; echo '{ROW}'", "1 answers", 0, "nothing on its error output"),
        ("cat > /dev/null; echo 1; echo 2", "malformed answers", 0, "nothing on its error output"),
    ],
)
def test_malformed_answers_are_one_clear_error(java, script, found, code, said):
    java(script)
    with pytest.raises(SystemProblem) as caught:
        meteor_counts(ITEMS, num_counts=NUM_COUNTS)
    assert str(caught.value) == (
        f"METEOR gave {found} for 2 items (exit code {code}; it said: {said}); "
        f"check that java -version works and that 2 GB of memory are free"
    )
