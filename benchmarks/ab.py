"""Side-by-side timing in one process: A B A B …, medians, disturbed repetitions dropped.

In: named callables that do the same work. Out: seconds per call of each; JSON and lines of what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch


def interleaved(sides: Mapping[str, Callable[[], object]], *, repetitions: int = 7) -> dict[str, float]:
    """Median seconds of each side, run in turn; a round in which other processes took the CPU is dropped.

    A round is disturbed when this process got less CPU time than it had threads for, compared with its best
    round; at least three rounds are always kept.
    """
    for work in sides.values():  # the first calls include lazy setup
        work()
    rounds: list[tuple[float, dict[str, float]]] = []
    for _ in range(repetitions):
        seconds, started, used = {}, time.perf_counter(), time.process_time()
        for name, work in sides.items():
            begin = time.perf_counter()
            work()
            seconds[name] = time.perf_counter() - begin
        rounds.append(((time.process_time() - used) / (time.perf_counter() - started), seconds))
    rounds.sort(key=lambda row: -row[0])
    kept = [row for row in rounds if row[0] > 0.95 * rounds[0][0]] if len(rounds) > 3 else rounds
    kept = kept if len(kept) >= 3 else rounds[:3]
    return {name: statistics.median(row[1][name] for row in kept) for name in sides}


def machine() -> dict[str, object]:
    """The facts about this machine that are needed to compare numbers."""
    model = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save(name: str, rows: list[dict[str, object]]) -> None:
    """Write `benchmarks/results/NAME.json` and print a line per row."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    show(rows)


def json_file(parser: argparse.ArgumentParser, path: Path) -> Path:
    """The value of `--json`, checked before minutes are spent on what is written there."""
    if not path.parent.is_dir():
        parser.error(f"--json {path}: expected a file in a folder that exists")
    return path


def show(rows: Iterable[Mapping[str, object]]) -> None:
    """Print a line per row."""
    for row in rows:
        print("  ".join(f"{key} {_short(value)}" for key, value in row.items()))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
