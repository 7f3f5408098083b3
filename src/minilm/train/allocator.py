"""Keep freed memory in the process, and give it back now and then.

In: a process that trains. Out: glibc no longer hands large blocks back to the system after every step, which
on CPUs costs a page fault for every page when the next step takes them again. What it keeps breaks into pieces, since
no two batches have the same sizes, and grows (threefold in some hundred steps of SQuAD): hence
`give_back_freed_memory`. Other C libraries and systems are left as they are.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
GIVE_BACK_EVERY = 100  # steps of training; the next one pays for its pages again


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse large blocks; True when it took effect."""
    mallopt = getattr(_c_library(), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> bool:
    """Hand all free pages to the system once; True when there were some."""
    trim = getattr(_c_library(), "malloc_trim", None)
    return bool(trim and trim(0))


def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
