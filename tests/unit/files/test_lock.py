"""One process holds a lock; a file system without locks is reported and is not an error."""

from __future__ import annotations

import errno
import fcntl
import logging
import os

import pytest

from minilm.errors import UsageError
from minilm.files.lock import lock_file


def lock(file, path):
    lock_file(file, path, busy=f"writing {path}", instead="another output")


def test_a_locked_file_is_free_again_when_it_is_closed(tmp_path):
    path = tmp_path / "rows"
    with path.open("w") as first, path.open("a") as second:
        lock(first, path)
        with pytest.raises(UsageError) as caught:
            lock(second, path)
        assert str(caught.value) == f"another process is writing {path}; wait for it, or choose another output"
        first.close()
        lock(second, path)


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def fail(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    path = tmp_path / "rows"
    with path.open("w") as file, caplog.at_level(logging.INFO, "minilm.files.lock"):
        lock(file, path)
    assert caplog.messages == [
        f"{path} cannot be locked ({os.strerror(errno.ENOLCK)}); do not start a second process that writes there"
    ]
