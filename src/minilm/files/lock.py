"""A lock on a file or folder, held by one process at a time.

In: an open file, or a folder, and the message for a second process. Out: the lock, released when the file is closed or
the block ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from minilm.errors import UsageError
from minilm.files.atomic import reporting_writes

logger = logging.getLogger(__name__)


class _Open(Protocol):
    def fileno(self) -> int: ...


def lock_file(file: _Open | int, path: Path, *, busy: str, instead: str) -> None:
    """Lock an open file until it is closed or the process ends.

    Args:
        file: the open file, or its descriptor.
        path: its path, for messages.
        busy: what the other process is doing, such as `writing out.jsonl`.
        instead: what to choose instead, such as `another output`.

    Raises:
        UsageError: another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another process is {busy}; wait for it, or choose {instead}") from None
    except OSError as error:  # a file system without locks
        logger.info("%s cannot be locked (%s); do not start a second process that writes there", path, error.strerror)


@contextlib.contextmanager
def locked_folder(folder: Path, *, busy: str, instead: str) -> Iterator[None]:
    """Lock a folder for the duration of the block; nothing is written into it.

    Raises:
        UsageError: another process holds the lock, see `lock_file`.
        SystemProblem: there is no such folder.
    """
    with reporting_writes(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        lock_file(handle, folder, busy=busy, instead=instead)
        yield
    finally:
        os.close(handle)
