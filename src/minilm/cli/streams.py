"""Standard streams that a service, cron or the shell has closed.

In: the streams that Python found when it started. Out: streams that can be used; whether one was closed.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO


def replace_closed_streams() -> None:
    """Open the null device in place of each closed standard stream.

    Python has None for such a stream, which ends a print in a traceback. Its number would go to the next file that is
    opened, and what a library then writes to standard error would end up in that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # its number is the lowest free one, which `open` takes
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it stays open


def was_closed(stream: TextIO) -> bool:
    """Whether this standard stream is only a replacement; one that the shell connects to the null device is not."""
    return getattr(stream, "name", None) == os.devnull
