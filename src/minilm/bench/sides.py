"""Sides of a comparison, each in a separate process; one that cannot run is left out, with the reason.

In: descriptions of sides, workloads. Out: what the sides measured, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, get_args

import numpy as np

from minilm.bench.process import WORKER, SideFailed, SideProcess
from minilm.bench.rounds import Measured, Run, in_turn
from minilm.errors import UsageError
from minilm.files.json import write_json
from minilm.infer.engines.protocol import Float32s
from minilm.model.precision import Precision

_FIRST = ["The first text."]
_BATCH_SIZES = (8, 16, 32)
_FIRST_CALLS = 4
_LEAST_SECONDS, _SLOWEST = 60.0, 5e8  # deadlines: `_SLOWEST` operations a second count as stuck
# glibc's malloc keeps what is freed, which saves the page faults of large blocks.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is compared.

    Attributes:
        name: in tables.
        request: what `minilm.bench.worker` expects.
        precision: of its products.
        environment: more variables of its process.
        command: of its process.
    """

    name: str
    request: Mapping[str, object]
    precision: str = "fp32"
    environment: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = WORKER


def our_sides(folder: Path, *, max_tokens: int, name: str | None = None) -> list[Side]:
    """Torch in fp32, and the native engine in every precision; reasons call the model by its name, if it has one."""
    found = []
    for engine, precision in [("torch", "fp32"), *(("native", name) for name in get_args(Precision))]:
        request: dict[str, object] = {"kind": "minilm", "model": str(folder.resolve()), "first": _FIRST}
        request |= {"engine": engine, "precision": precision, "max_tokens": max_tokens}
        request |= {} if name is None else {"name": name}
        found.append(Side(name=f"{engine} {precision}", request=request, precision=precision))
    return found


def peer_sides(folder: Path, *, max_tokens: int) -> list[Side]:
    """sentence-transformers in fp32, as shipped, then with its best batch size and freed memory kept.

    It sorts the texts of a call by length itself.
    """
    request: dict[str, object] = {"kind": "sentence-transformers", "model": str(folder.resolve()), "first": _FIRST}
    request["max_tokens"] = max_tokens
    tuned = {**request, "batch_sizes": _BATCH_SIZES}
    return [
        Side(name="sentence-transformers", request={**request, "batch_sizes": [None]}),
        Side(name="sentence-transformers, tuned", request=tuned, environment=_KEEP_MEMORY),
    ]


class RunningSides:
    """The processes of all sides that can run, as a context manager.

    Attributes:
        processes: by the name of the side, in their order.
        left_out: why the others are not among them.
    """

    def __init__(self, sides: Sequence[Side], *, threads: int) -> None:
        """Start all, one after another, so that they do not disturb each other.

        Raises:
            UsageError: none can run.
        """
        self.processes: dict[str, SideProcess] = {}
        self.left_out: list[str] = []
        try:
            for side in sides:
                try:
                    self.processes[side.name] = SideProcess(
                        side.request, threads=threads, environment=side.environment, command=side.command
                    )
                except SideFailed as reason:
                    self._leave_out(side.name, reason)
            self._require_one()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> RunningSides:
        """They run already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes."""
        self._close()

    def take(self, workloads: Mapping[str, Sequence[object]]) -> None:
        """Give all sides the calls of each workload."""
        with TemporaryDirectory(prefix="minilm-bench-") as folder:
            file = Path(folder) / "workloads.json"
            write_json(file, workloads)
            self._all(lambda process: process.ask({"workloads": str(file)}, seconds=_LEAST_SECONDS))

    def vectors(self, name: str, *, operations: float) -> dict[str, Float32s]:
        """The vectors of a workload."""
        request = {"run": name, "vectors": True}
        found = self._all(lambda process: process.ask(request, seconds=_deadline(operations)))
        return {side: np.array(answer["vectors"], dtype=np.float32) for side, answer in found.items()}

    def measure(self, name: str, *, operations: float, rounds: int) -> Measured:
        """Run a workload in turn, after first calls that do not count."""
        self._all(lambda process: process.run(name, seconds=_deadline(operations), most_calls=_FIRST_CALLS))
        while True:
            failed: list[tuple[str, SideFailed]] = []
            work = {
                side: partial(_run, side, process, name, _deadline(operations), failed)
                for side, process in self.processes.items()
            }
            with suppress(SideFailed):
                return in_turn(work, rounds=rounds)
            for side, reason in failed:
                self._leave_out(side, reason)
            self._require_one()

    def _all(self, ask: Callable[[SideProcess], Any]) -> dict[str, Any]:
        """The answers of the sides that give one."""
        found = {}
        for side, process in list(self.processes.items()):
            try:
                found[side] = ask(process)
            except SideFailed as reason:
                self._leave_out(side, reason)
        self._require_one()
        return found

    def _leave_out(self, side: str, reason: SideFailed) -> None:
        process = self.processes.pop(side, None)
        if process is not None:
            process.close()
        self.left_out.append(f"{side} is left out: {reason}")

    def _require_one(self) -> None:
        if not self.processes:
            raise UsageError("nothing can be measured: " + "; ".join(self.left_out))

    def _close(self) -> None:
        for process in self.processes.values():
            process.close()


def _deadline(operations: float) -> float:
    return _LEAST_SECONDS + operations / _SLOWEST


def _run(side: str, process: SideProcess, name: str, seconds: float, failed: list[tuple[str, SideFailed]]) -> Run:
    try:
        return process.run(name, seconds=seconds)
    except SideFailed as reason:
        failed.append((side, reason))
        raise
