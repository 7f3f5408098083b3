"""Keep freed memory in the training process until too much accumulates.

Out: glibc keeps large blocks instead of returning them to the system after every step, which on CPUs costs a page
fault per page when the next step allocates them again. The kept memory fragments, because batches differ in size, and
grows: twofold in 35 steps of summarization, fourfold in a few hundred steps of SQuAD. `FreedMemory` therefore releases
all free pages when the process has grown by half. Other C libraries and systems are unaffected.

This changes the whole process, so only the training commands enable it; `train()` called from Python does not.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_SETTLING_STEPS, _GROWTH = 10, 1.5

_is_kept = False


class FreedMemory:
    """Watches memory that the steps of a loop free and reuse; has no effect unless `keep_freed_memory` was called."""

    def __init__(self) -> None:
        """Start watching."""
        self._steps, self._level_gib = 0, 0.0

    def after_step(self) -> None:
        """Release free pages if memory grew by half since the first ten steps, or the ten after the last release.

        The next step has to fault its pages in again.
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
        """Release free pages now."""
        if _is_kept:
            give_back_freed_memory()
        self._steps, self._level_gib = 0, 0.0


def resident_gib() -> float:
    """Resident memory of this process in GiB (0 if the system does not report it)."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            kib = next(line.split()[1] for line in file if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0.0
    return int(kib) / 2**20


def keep_freed_memory() -> bool:
    """Make glibc's malloc reuse large blocks for the lifetime of this process; True if it took effect."""
    global _is_kept
    mallopt = getattr(_c_library(), "mallopt", None)
    _is_kept = bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    return _is_kept


def give_back_freed_memory() -> bool:
    """Return all free pages to the system once; True if any were released."""
    trim = getattr(_c_library(), "malloc_trim", None)
    return bool(trim and trim(0))


def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
