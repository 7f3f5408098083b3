"""Sides in turn, and rounds in which other processes used the processor dropped.

In: named sides, each a function that does its work once. Out: the runs of the rounds that count.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_STAT = Path("/proc/stat")
_MOST_OF_OTHERS = 0.06  # share of the processors that other processes may use
_CLOCK_ERROR = 0.02  # seconds: the system counts in hundredths
_MORE_ROUNDS = 2  # at most this many times the rounds asked for
_BUSY_FIELDS = (1, 2, 3, 6, 7, 8)  # of a line of /proc/stat: user, nice, system, interrupts, stolen; not idle, waiting


@dataclass(frozen=True, kw_only=True)
class Run:
    """One side, once: the seconds of each call, and the seconds of processors that it used."""

    seconds: tuple[float, ...]
    used: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rounds that count, and how many were dropped; `others` is what other processes used in those kept, at most.

    `others` is None where the system does not say what is used; then no round is dropped.
    """

    rounds: list[Mapping[str, Run]]
    dropped: int
    others: float | None

    def facts(self) -> dict[str, object]:
        """What is stored beside the numbers."""
        return {"rounds": len(self.rounds), "rounds dropped": self.dropped, "used by others": self.others}


def in_turn(
    sides: Mapping[str, Callable[[], Run]], *, rounds: int, busy: Callable[[], float | None] | None = None
) -> Measured:
    """Run all sides, one after another, in each of several rounds (A B A B).

    A round is disturbed if other processes used more than 6% of the processors during one of its sides. Disturbed
    rounds are repeated, up to twice as many in all; if too few were undisturbed, the least disturbed count.

    Args:
        sides: what is compared.
        rounds: that count.
        busy: seconds that the processors have worked; by default, what the system says.
    """
    busy = busy_seconds if busy is None else busy
    found: list[tuple[float | None, Mapping[str, Run]]] = []
    for _ in range(_MORE_ROUNDS * rounds):
        runs: dict[str, Run] = {}
        most: float | None = None
        for name, work in sides.items():
            before, started = busy(), perf_counter()
            runs[name] = work()
            share = _others(before, busy(), runs[name].used, perf_counter() - started)
            most = share if most is None else max(most, share or 0.0)
        found.append((most, runs))
        if sum(_is_quiet(share) for share, _ in found) == rounds:
            break
    kept = sorted(found, key=lambda one: one[0] or 0.0)[:rounds]
    worst = kept[-1][0] if kept else None
    return Measured(rounds=[runs for _, runs in kept], dropped=len(found) - len(kept), others=worst)


def _is_quiet(share: float | None) -> bool:
    return share is None or share <= _MOST_OF_OTHERS


def _others(before: float | None, after: float | None, used: float, seconds: float) -> float | None:
    """The share of the processors that other processes used."""
    if before is None or after is None:
        return None
    return max(0.0, after - before - used - _CLOCK_ERROR) / max(seconds * len(_allowed()), 1e-9)


def busy_seconds(stat: Path = _STAT) -> float | None:
    """Seconds that the processors which this process may use have worked since the start; None if unknown."""
    try:
        lines = [line.split() for line in stat.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):  # not Linux
        return None
    names = {f"cpu{number}" for number in _allowed()}
    return sum(int(line[field]) for line in lines if line[0] in names for field in _BUSY_FIELDS) / ticks


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))
