"""What tests of several folders share: the command line in this process, and the rows that it writes."""

from __future__ import annotations

import json
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
