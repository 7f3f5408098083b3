"""What tests of several folders share: the command line in this process, the rows that it writes, a full disk."""

from __future__ import annotations

import json
import os
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
