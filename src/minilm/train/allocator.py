"""Keep freed memory in the process that trains, until it has piled up.

Out: glibc no longer hands large blocks back to the system after every step, which on CPUs costs a page fault for
every page when the next step takes them again. What it keeps breaks into pieces, since no two batches have the same
sizes, and grows: twofold in 35 steps of summaries, fourfold in some hundred of SQuAD. So `FreedMemory` gives all free
pages back when the process has grown by half. Other C libraries and systems are left as they are.

This changes the whole process, so the commands that train ask for it; `train()` called from Python does not.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_SETTLING_STEPS, _GROWTH = 10, 1.5

_is_kept = False


class FreedMemory:
    """Memory that a loop's steps free and take again; of no effect unless `keep_freed_memory` was called."""

    def __init__(self) -> None:
        """Start to watch."""
        self._steps, self._level_gib = 0, 0.0

    def after_step(self) -> None:
        """Give free pages back if the process has grown by half since its first ten steps, or the ten after last time.

        The next step pays for its pages again.
        """
        if not _is_kept:
            return
        held = resident_gib()
        self._steps += 1
        if self._steps <= _SETTLING_STEPS:
            self._level_gib = max(self._level_gib, held)
        elif held > _GROWTH * self._level_gib:
            self.give_back()

    def give_back(self) -> None:
        """Give free pages back now."""
        if _is_kept:
            give_back_freed_memory()
        self._steps, self._level_gib = 0, 0.0


def resident_gib() -> float:
    """Memory this process holds, GiB (0 where the system does not say)."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            kib = next(line.split()[1] for line in file if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0.0
    return int(kib) / 2**20


def keep_freed_memory() -> bool:
    """Tell glibc's malloc, in this process and until it ends, to reuse large blocks; True when it took effect."""
    global _is_kept
    mallopt = getattr(_c_library(), "mallopt", None)
    _is_kept = bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    return _is_kept


def give_back_freed_memory() -> bool:
    """Hand all free pages to the system once; True when there were some."""
    trim = getattr(_c_library(), "malloc_trim", None)
    return bool(trim and trim(0))


def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
