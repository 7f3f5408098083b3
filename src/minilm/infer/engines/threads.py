"""How many threads may compute.

In: the affinity of this process and the CPU quotas of its control groups. Out: a number, at least 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from minilm.errors import UsageError

MOST_THREADS = 1024
"""As many as the kernels take; torch would try any number."""

_QUOTA_FILES = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # version 2, version 1


def require_threads(threads: int | None) -> None:
    """Raise UsageError for a number of threads that not all engines take; None stands for `usable_threads`."""
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
        raise UsageError(f"threads is {threads!r:.40}; expected a whole number from 1 to {MOST_THREADS}")


def num_threads(wanted: int | None) -> int:
    """How many threads compute: `wanted`, or with None all that may; raises as `require_threads`."""
    require_threads(wanted)
    return usable_threads() if wanted is None else wanted


def usable_threads(root: Path = Path("/")) -> int:
    """The processors that this process may use, and no more than the share of time of any of its control groups.

    Args:
        root: of the file system.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, MOST_THREADS, *map(_share, _groups(root)))))


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the control groups, of both versions, from the outermost to that of this process."""
    tops = {"": root / "sys/fs/cgroup", "cpu": root / "sys/fs/cgroup/cpu"}
    yield from tops.values()  # in a container they are often its own group, whatever the path says
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return
    for controllers, path in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        for name, folder in tops.items():
            if name in controllers.split(","):
                for part in path.strip("/").split("/"):
                    folder /= part
                    yield folder


def _share(group: Path) -> float:
    """How many processors' time a control group has; infinite without a limit."""
    for names in _QUOTA_FILES:
        try:
            quota, period = (int(word) for name in names for word in (group / name).read_text(encoding="ascii").split())
            if quota > 0:
                return quota / period
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or no limit: "max"
            continue
    return math.inf
