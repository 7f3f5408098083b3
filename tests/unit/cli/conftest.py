"""What the tests of the commands share: the score commands on two files."""

from __future__ import annotations

import pytest

from minilm.cli import app


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Files are named without their folder, so that whole errors can be compared."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def score(capsys, caplog):
    """`score(kind, predictions, references, *options)`: exit code, stdout, and the error or the warnings."""

    def run(kind: str, predictions: str, references: str, *options: str) -> tuple[int, str, list[str]]:
        caplog.clear()
        with pytest.raises(SystemExit) as caught:
            app.main(["score", kind, "--predictions", predictions, "--references", references, *options])
        captured = capsys.readouterr()
        errors = [line.removeprefix("error: ") for line in captured.err.splitlines() if line.startswith("error: ")]
        return caught.value.code, captured.out, [*caplog.messages, *errors]

    return run
