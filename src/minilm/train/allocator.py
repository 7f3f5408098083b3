"""Keep freed memory in the process.

In: a process that trains. Out: glibc no longer hands large blocks back to the system after every step, which
on CPUs costs a page fault for every page when the next step takes them again. Other C libraries and systems
are left as they are.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse large blocks; True when it took effect."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
