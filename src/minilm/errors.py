"""All user-facing errors, grouped by what has to change.

In: the code that detects a problem raises one of these with a complete message: what was found,
what was expected, where (file:line, key or flag), and how to fix it.
Out: the command line prints that message and exits with the class's exit code, without a traceback.
"""

from __future__ import annotations

import errno

HINTS = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EFBIG: "the file is larger than this process may write: raise 'ulimit -f' or choose another disk",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EACCES: "permission denied: choose another folder or change its permissions",
    errno.EPERM: "permission denied: choose another folder or change its permissions",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENOMEM: "out of memory: free some, or use smaller batches",
}
"""What common OS errors mean and how to fix them, whatever the operation."""


class MinilmError(Exception):
    """Base of all errors that are reported to the user as one message."""

    exit_code = 1


class UsageError(MinilmError):
    """A command, flag, recipe or argument must change (exit code 2)."""

    exit_code = 2


class SettingsError(UsageError, ValueError):
    """An invalid value in a settings group; pydantic treats it as a validation error and adds file and line."""


class DataError(MinilmError):
    """An input file, model folder or corpus must change (exit code 3)."""

    exit_code = 3


class SystemProblem(MinilmError):
    """The machine must change: disk full, read-only folder, package missing (exit code 4)."""

    exit_code = 4


class Interrupted(MinilmError):
    """The user stopped the run; its state is saved (exit code 130)."""

    exit_code = 130


OUT_OF_MEMORY = "out of memory: use fewer or shorter texts, a smaller model, or a machine with more memory"
"""The message where no setting is known that lowers what is used."""
_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory was used up, of the machine or of a GPU: torch says so in a RuntimeError, in several ways."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY)


def one_line(message: BaseException | str, *, max_chars: int | None = 200) -> str:
    """Format a message on one line for use inside another: whitespace collapsed, control characters escaped.

    An error without a message is shown as the name of its class.
    """
    text = " ".join(str(message).split())
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:max_chars])
    return shown or (message if isinstance(message, str) else type(message).__name__)
