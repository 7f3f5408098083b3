"""Keep freed memory in the training process until too much accumulates.

Out: glibc keeps large blocks instead of returning them to the system after every step, which on CPUs costs a page
fault per page when the next step allocates them again. The kept memory fragments, because batches differ in size, and
grows: twofold in 35 steps of summarization, fourfold in a few hundred steps of SQuAD. `FreedMemory` therefore releases
all free pages when the process holds half as much again as a step needs. Other C libraries and systems are unaffected.

This changes the whole process, so only the training commands enable it; `train()` called from Python does not.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_GROWTH = 1.5

_is_kept = False


class FreedMemory:
    """Watches memory that the steps of a loop free and reuse; has no effect unless `keep_freed_memory` was called.

    What a step needs is what the process holds after the first step, and after the first one since a release: later
    steps also use other free blocks. The highest of these counts, so that a long batch among short ones, or a model
    that grows, does not cause releases for ever.
    """

    def __init__(self) -> None:
        """Start watching."""
        self._needed_gib, self._is_first = 0.0, True

    def after_step(self) -> None:
        """Release free pages if the process holds too many; the next step has to fault its pages in again."""
        if not _is_kept:
            return
        held = resident_gib(kind="RssAnon")  # without mapped files, such as the vectors of a stored teacher
        if self._is_first:
            self._needed_gib, self._is_first = max(self._needed_gib, held), False
        elif held > _GROWTH * self._needed_gib:
            self.give_back()

    def give_back(self) -> None:
        """Release free pages now."""
        if _is_kept:
            give_back_freed_memory()
        self._is_first = True


def resident_gib(*, kind: str = "VmRSS") -> float:
    """Resident memory of this process in GiB, all or of one kind (0 if the system does not report it)."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            kib = next(line.split()[1] for line in file if line.startswith(kind))
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
