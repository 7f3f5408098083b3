"""What tests of several folders share: the command line in this process, the rows it writes, a full disk, a fork."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from minilm.cli import app


def minilm(*arguments: object) -> int:
    """Run a command; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        app.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def rows_of(path: Path) -> list[dict]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def fail_syncing(monkeypatch, code: int, *wanted: str) -> None:
    """Make syncing a file fail with `code` if its path contains every text of `wanted`."""
    original = os.fsync

    def failing(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        if all(text in name for text in wanted):
            raise OSError(code, os.strerror(code), name)
        original(handle)

    monkeypatch.setattr(os, "fsync", failing)


def in_a_child(work: Callable[[], str]) -> str:
    """What `work` returns, or the message of its error, in a forked process; a child that hangs is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        try:
            said = work()
        except BaseException as error:
            said = str(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child hung or crashed"
    return said
