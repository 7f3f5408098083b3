"""Live progress: one line on a terminal, plain lines in a pipe.

In: the numbers of each step. Out: loss, tokens/s, time left and memory, on standard error.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from minilm.train.allocator import resident_gib

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class StepProgress:
    """Shows how a run of `total` steps stands; a context manager."""

    def __init__(self, label: str, total: int, *, done: int = 0, silent: bool = False) -> None:
        """Begin at step `done` of `total`; `silent` for all processes but the first."""
        self._console = Console(stderr=True)
        self._silent = silent
        self._label, self._total, self._done, self._first = label, total, done, done
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=silent or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(label, total=total, completed=done, status="")
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> StepProgress:
        """Show the line."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on screen."""
        self._bar.stop()

    def update(self, *, loss: float, tokens_per_second: float) -> None:
        """One more step is done."""
        self._done += 1
        status = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s  {resident_gib():.1f} GiB"
        self._bar.update(self._task, completed=self._done, status=status)
        now = time.monotonic()
        due = now - self._last_line >= _SECONDS_BETWEEN_LINES or self._done == self._total
        if due and not self._silent and not self._console.is_terminal:
            self._last_line = now
            left_s = (now - self._started) / (self._done - self._first) * (self._total - self._done)
            left = timedelta(seconds=round(left_s))
            logger.info("%s %d/%d  %s  %s left", self._label, self._done, self._total, status, left)
