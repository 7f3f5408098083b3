"""Every error a user can cause or meet, sorted by who must act.

In: the place that noticed the problem raises one of these with a full sentence: what was found,
what was expected, where (file:line, key or flag), how to fix it.
Out: the command line prints that sentence and exits with the class's code; no traceback.
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
"""What the system's refusals mean and how to fix them, whatever was being done."""


class MinilmError(Exception):
    """Base of all errors that are reported to the user as one message."""

    exit_code = 1


class UsageError(MinilmError):
    """A command, flag, recipe or argument must change (exit code 2)."""

    exit_code = 2


class DataError(MinilmError):
    """An input file, model folder or corpus must change (exit code 3)."""

    exit_code = 3


class SystemProblem(MinilmError):
    """The machine must change: disk full, read-only folder, package missing (exit code 4)."""

    exit_code = 4


class Interrupted(MinilmError):
    """The user stopped the run; its state is saved (exit code 130)."""

    exit_code = 130
