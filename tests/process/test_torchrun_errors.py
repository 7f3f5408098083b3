"""Under torchrun an error is printed once, by the lowest rank that has it, with its number if not all have it."""

from __future__ import annotations

import os
import subprocess

import pytest

WORKER = """
import os, sys
from minilm.cli.app import run_reporting
from minilm.errors import DataError
from minilm.train.distributed import process_group, wait_for_first

def command():
    with process_group() as ranks:
        if str(ranks.rank) in sys.argv[1]:
            raise DataError(sys.argv[2].replace("RANK", str(ranks.rank)))
        wait_for_first(ranks)
    return 0

sys.exit(run_reporting(command))
"""


@pytest.fixture
def errors_of(forked, repo_dir, tmp_path):
    """`errors_of(failing ranks, message)`: what three processes print."""

    def run(ranks: str, message: str) -> list[str]:
        script = tmp_path / "worker.py"
        script.write_text(WORKER)
        environment = {**os.environ, "PYTHONPATH": str(repo_dir / "src")}
        launch = [forked / "python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
        done = subprocess.run(
            [*launch, script, ranks, message], capture_output=True, text=True, env=environment, check=False, timeout=300
        )
        assert done.returncode == 1
        assert "exitcode  : 3" in done.stderr
        workers, _, _ = done.stderr.partition("torch/distributed/elastic")
        assert "Traceback" not in workers
        return [line for line in done.stderr.splitlines() if line.startswith("error:")]

    return run


@pytest.mark.parametrize(
    ("ranks", "message", "printed"),
    [
        ("012", "no such file", ["error: no such file"]),
        ("12", "no such file", ["error: rank 1 of 3: no such file"]),
        ("01", "file RANK", ["error: rank 0 of 3: file 0", "error: rank 1 of 3: file 1"]),
    ],
)
def test_an_error_is_printed_once_and_processes_that_wait_for_the_failed_one_print_nothing(
    errors_of, ranks, message, printed
):
    assert sorted(errors_of(ranks, message)) == printed
