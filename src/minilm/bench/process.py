"""The process of a side, as the one that measures sees it: every wait has a deadline.

In: what a side is, requests. Out: answers, or `SideFailed` with the reason; then the process is gone.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter
from types import TracebackType
from typing import Any

from minilm.bench.rounds import Run
from minilm.errors import one_line

WORKER = (sys.executable, "-m", "minilm.bench.worker")
"""The command of a side."""

_PACKAGES = Path(__file__).resolve().parents[2]


class SideFailed(Exception):
    """A side cannot be measured; the message is the reason."""


class SideProcess:
    """A running side, as a context manager.

    Attributes:
        start_seconds: from the start of the process to the end of its first call.
        memory_mb: of the process then; None where the system does not say.
    """

    def __init__(
        self,
        side: Mapping[str, object],
        *,
        threads: int,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = WORKER,
        start_seconds: float = 300.0,
    ) -> None:
        """Start it, and wait until it has done its first call.

        Args:
            side: what `minilm.bench.worker` expects.
            threads: that compute.
            environment: more variables.
            command: of the process.
            start_seconds: the deadline.

        Raises:
            SideFailed: it has ended, does not answer or says that it cannot run.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._pending = b""
        fixed = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        started = perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            cwd=_PACKAGES,  # where `minilm` is imported from, installed or not
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": _search_path(), **fixed, **(environment or {})},
        )
        try:
            answer = self.ask({**side, "threads": threads}, seconds=start_seconds)
        except KeyboardInterrupt:
            self.close()
            raise
        self.start_seconds = perf_counter() - started
        self.memory_mb: float | None = answer["memory"]

    def __enter__(self) -> SideProcess:
        """It runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    def run(self, name: str, *, seconds: float, most_calls: int | None = None) -> Run:
        """Run a workload, or its first calls; raises as `ask`."""
        answer = self.ask({"run": name, "most_calls": most_calls}, seconds=seconds)
        return Run(seconds=tuple(answer["seconds"]), used=answer["used"])

    def ask(self, request: Mapping[str, object], *, seconds: float) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            SideFailed: there is none within `seconds`, the process has ended or says why it cannot.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._line(monotonic() + seconds, seconds))
            if "failed" in answer:
                raise SideFailed(answer["failed"])
        except (SideFailed, OSError) as error:  # OSError: a broken pipe
            reason = error if isinstance(error, SideFailed) else self._ended()
            self.close()
            raise reason from None
        return answer

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._stderr.close()

    def _line(self, deadline: float, seconds: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - monotonic()))
            if not ready:
                raise SideFailed(f"it has not answered within {seconds:.0f} seconds")
            part = self._process.stdout.read(1 << 16)
            if not part:
                raise self._ended()
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _ended(self) -> SideFailed:
        """What to say of a process that is gone: the last line that it wrote."""
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return SideFailed(f"its process has ended with code {code}" + (f": {one_line(lines[-1])}" if lines else ""))


def _search_path() -> str:
    """PYTHONPATH for another folder and another script: this package first, then what it was, as absolute paths."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.pathsep.join([str(_PACKAGES), *map(os.path.abspath, given)])
