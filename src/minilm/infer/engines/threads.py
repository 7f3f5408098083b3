"""How many threads may compute.

In: the affinity of this process and the CPU quota of its control group. Out: a number, at least 1.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_threads(quota_file: Path = _QUOTA) -> int:
    """The processors that this process may use, and no more than its control group's share of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, _, period = quota_file.read_text(encoding="ascii").partition(" ")
        share = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no control group, or no limit: "max"
        return allowed
    return max(1, min(allowed, share))
