"""A lock on a file, held by one process at a time.

In: an open file, and the message for a second process. Out: the lock, released when the file is closed.
"""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path
from typing import Protocol

from minilm.errors import UsageError

logger = logging.getLogger(__name__)


class _Open(Protocol):
    def fileno(self) -> int: ...


def lock_file(file: _Open, path: Path, *, busy: str, instead: str) -> None:
    """Lock an open file until it is closed or the process ends.

    Args:
        file: the open file.
        path: its path, for messages.
        busy: what the other process is doing, such as `writing out.jsonl`.
        instead: what to choose instead, such as `another output`.

    Raises:
        UsageError: another process holds the lock.
    """
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another process is {busy}; wait for it, or choose {instead}") from None
    except OSError as error:  # a file system without locks
        logger.info("%s cannot be locked (%s); do not start a second process that writes there", path, error.strerror)
