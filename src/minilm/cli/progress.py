"""Progress of commands that count rows: one live line on a terminal, plain lines in a pipe.

In: how many rows there are, and each time how many more are done. Out: rate and time left, on standard error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import typer

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def counting(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how a command over `total` rows stands; call what is yielded with the number of rows just done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    rates = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    started = shown = time.monotonic()
    done = 0
    with Progress(*columns, *rates, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total, rate="")

        def advance(rows: int) -> None:
            nonlocal done, shown
            done += rows
            now = time.monotonic()
            rate = done / max(now - started, 1e-9)
            bar.update(task, completed=done, rate=f"{rate:,.1f} rows/s")
            if not console.is_terminal and now - shown >= _SECONDS_BETWEEN_LINES:
                shown = now
                left = timedelta(seconds=round((total - done) / rate))
                typer.echo(f"{label} {done:,}/{total:,}  {rate:,.1f} rows/s  {left} left", err=True)

        yield advance


@contextmanager
def counting_later(label: str) -> Iterator[Callable[[int, int], Callable[[int], None]]]:
    """As `counting`, for a command that finds out later how many rows there are, and how many an earlier run finished.

    Call what is yielded with these two numbers; what that returns, with the number of rows just done.
    """
    with ExitStack() as stack:

        def started(total: int, finished: int) -> Callable[[int], None]:
            if finished:
                typer.echo(f"resuming: {finished:,} of {total:,} rows are finished", err=True)
            return stack.enter_context(counting(label, total - finished))

        yield started
