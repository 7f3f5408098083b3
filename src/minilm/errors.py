"""Every error a user can cause or meet, sorted by who must act.

In: the place that noticed the problem raises one of these with a full sentence: what was found,
what was expected, where (file:line, key or flag), how to fix it.
Out: the command line prints that sentence and exits with the class's code; no traceback.
"""

from __future__ import annotations


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
