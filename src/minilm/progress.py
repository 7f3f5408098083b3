"""Progress display: one live line on a terminal, a plain line every ten seconds in a pipe.

In: the total, and each increment. Out: the share, rate or status, and time left, on standard error.
A display that nobody can read any more never ends the work.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

logger = logging.getLogger(__name__)

BYTES = "bytes"
"""The unit of files; shown as KiB, MiB and so on."""
_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A progress display, as a context manager; shows nothing until `begin`."""

    def __init__(self, label: str, *, unit: str = "", silent: bool = False) -> None:
        """Prepare the display.

        Args:
            label: what is being done.
            unit: what is counted, such as `BYTES`; its rate is shown. Without one, only the caller's status is shown.
            silent: show nothing, for all processes but the first.
        """
        self._label, self._unit, self._silent = label, unit, silent
        self._total: float | None = 0
        self._done: float = 0
        self._first: float = 0
        self._started = self._last_line = 0.0
        self._bar: tuple[Bar, TaskID] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        """Show nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        with suppress(OSError):
            self._stack.close()

    def begin(self, total: float | None, done: float = 0) -> Progress:
        """Start the clock; `done` of `total` were finished earlier, which is logged if there is a unit.

        A `total` of None is unknown; then only the status is shown.
        """
        self._total, self._done, self._first = total, done, done
        self._started = self._last_line = time.monotonic()
        if self._silent:
            return self
        if done and self._unit and total is not None:
            _say(f"resuming: {_number(done)} of {_number(total)} {self._unit} are finished")
        if sys.stderr is not None and sys.stderr.isatty():
            with suppress(OSError):
                bar = self._stack.enter_context(_live_bar())
                self._bar = bar, bar.add_task(self._label, total=total, count=self._count(), status="")
                bar.update(self._bar[1], completed=done)
        return self

    def advance(self, count: float = 1, *, status: str = "") -> None:
        """Add `count` to what is done."""
        self._done += count
        if self._silent:
            return
        now = time.monotonic()
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        shown = "  ".join(filter(None, (self._rate(rate), status)))
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self._done, count=self._count(), status=shown)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES or (
            self._done == self._total and self._unit in ("", BYTES)
        ):
            self._last_line = now
            _say("  ".join(filter(None, (f"{self._label} {self._count()}".rstrip(), shown, self._left(rate)))))

    def _left(self, rate: float) -> str:
        if self._total is None or self._done == self._total:
            return ""
        return f"{timedelta(seconds=round((self._total - self._done) / rate))} left" if rate else "time left unknown"

    def _count(self) -> str:
        if self._total is None:
            return ""
        shown = _size if self._unit == BYTES else _number
        return f"{shown(self._done)}/{shown(self._total)}"

    def _rate(self, rate: float) -> str:
        if self._unit == BYTES:
            return "" if self._total is None else f"{_size(rate)}/s"
        return f"{rate:,.1f} {self._unit}/s" if self._unit else ""


def _size(count: float) -> str:
    """A number of bytes in the largest unit of which there is one."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _say(line: str) -> None:
    """Log the line if a run keeps a log, which also goes to the terminal; else write it to standard error."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", line)
    elif sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


def _live_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            """Continue without a display; by default, the process ends."""
            self.quiet = True

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=Quiet(stderr=True),
    )
