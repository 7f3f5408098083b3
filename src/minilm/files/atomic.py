"""Atomic writes: a file or folder is written under a temporary name, synced, then renamed.

In: a path and its new content. Out: the file or folder under its final name, or one `SystemProblem` that gives the
reason; the previous content is then untouched and no partial file remains.
Temporary names: `.{name}.tmp-{pid}` beside the target; leftovers of dead processes are removed later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from minilm.errors import HINTS, SystemProblem, UsageError

# When writing, a missing folder or one in the way also has a hint.
_HINTS = {
    **HINTS,
    errno.ENOENT: "the folder does not exist: create it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EISDIR: "a folder with that name is in the way: choose another path",
}
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def _write_problem(path: Path, error: OSError) -> SystemProblem:
    reason = _HINTS.get(error.errno or 0, f"{error.strerror or error}: check the disk and try again")
    return SystemProblem(f"cannot write {path}: {reason}")


@contextlib.contextmanager
def reporting_writes(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a `SystemProblem`, for files that cannot be written atomically."""
    try:
        yield
    except OSError as error:
        raise _write_problem(path, error) from error


def make_folder(path: Path) -> None:
    """Create a folder and any missing parents; raises SystemProblem if that fails."""
    with reporting_writes(path):
        path.mkdir(parents=True, exist_ok=True)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: to a temporary file in the same folder, synced, then renamed to `path`.

    Raises:
        SystemProblem: the disk is full, read-only, ...; an older file at `path` is untouched.
        UsageError: `path` is a device or a pipe.
    """
    with writing_aside(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def writing_aside(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that becomes `path` when the block succeeds and is deleted when it fails."""
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    try:
        _require_no_device(path)
        _remove_leftovers(path)
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _write_problem(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes `path` when the block succeeds.

    Everything written into the yielded folder is synced before the rename. When the block raises, the
    temporary folder is removed and `path` is untouched. Temporary folders of processes that died are removed.
    With `replace` an existing folder is moved aside first and removed last; if the process dies between
    the two renames, the next call for the same path puts the old folder back.

    Raises:
        UsageError: `path` exists, is not an empty folder, and `replace` is False.
        SystemProblem: the disk is full, read-only, ...
    """
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with reporting_writes(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            reject_existing(path, replace=replace)
            aside.mkdir()
        yield aside
        _publish(aside, path, replace=replace)
    except SystemProblem as problem:
        if str(aside) not in str(problem):
            raise
        # about a file in the temporary folder, whose name tells the user nothing
        raise SystemProblem(str(problem).replace(str(aside), str(path))) from problem
    except OSError as error:
        if error.errno in _DISK_ERRORS or aside.name in str(error.filename):
            raise _write_problem(path, error) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def reject_existing(path: Path, *, replace: bool = False) -> None:
    """Raise UsageError if `path` is in the way of a new folder: a file, or without `replace` a folder with content."""
    if path.is_dir() and (replace or not any(path.iterdir())):
        return
    if path.exists() or path.is_symlink():
        what = "folder that is not empty" if path.is_dir() else "file"
        raise UsageError(f"{path} already exists (a {what}): remove it or choose another output path")


def require_writable(path: Path) -> None:
    """Find before long work that `path` cannot be written; raises SystemProblem, or UsageError for a device."""
    with reporting_writes(path):
        _require_no_device(path)
        folder = next(part for part in path.absolute().parents if part.exists())
        if not folder.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(code, os.strerror(code))


def _require_no_device(path: Path) -> None:
    """Raise UsageError for /dev/null and the like, whose place a file would take."""
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    if is_special or path.absolute().parent == Path("/dev"):
        raise UsageError(f"{path} is a device or a pipe, which a file would replace: choose another path")


def _publish(aside: Path, path: Path, *, replace: bool) -> None:
    """Sync a finished folder and rename it to its final name."""
    for folder, _, files in os.walk(aside, topdown=False):
        for name in files:
            _sync_file(Path(folder, name))
        _sync_folder(Path(folder))
    reject_existing(path, replace=replace)
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    moved = path.is_dir() and any(path.iterdir())
    if moved:
        os.rename(path, old)
    try:
        os.rename(aside, path)
    except OSError:
        if moved:
            os.rename(old, path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what dead processes left beside `path`; restore a folder that was moved aside but not replaced."""
    leftover = re.compile(re.escape(f".{path.name}") + r"\.(tmp|old)-(\d+)(-\d+)?")
    for entry in list(path.parent.iterdir()):
        match = leftover.fullmatch(entry.name)
        if match is None or _is_in_use(entry, int(match[2])):
            continue
        if match[1] == "old" and not path.exists():
            os.rename(entry, path)
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _is_in_use(entry: Path, pid: int) -> bool:
    if pid == os.getpid():  # a thread may be writing a file; a folder is left over from an earlier process with our id
        return not entry.is_dir()
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # alive, but owned by another user
        return True
    return True


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
