"""The display of a build of shards: share of the bytes read, counts, rates, time left.

In: the progress of a build. Out: one live line on a terminal, a plain line every ten seconds in a pipe.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from minilm.corpus.build import BuildProgress
from minilm.progress import BYTES, Progress


@contextlib.contextmanager
def build_display() -> Iterator[Callable[[BuildProgress], None]]:
    """The callback that shows the progress of a build."""
    started, bytes_done, has_begun = time.monotonic(), 0, False

    def show(now: BuildProgress) -> None:
        nonlocal bytes_done, has_begun
        if not has_begun:
            progress.begin(now.bytes_total or None)  # standard input has no size
            has_begun = True
        progress.advance(now.bytes_done - bytes_done, status=status_line(now, time.monotonic() - started))
        bytes_done = now.bytes_done

    with Progress("build the corpus", unit=BYTES) as progress:
        yield show


def status_line(now: BuildProgress, seconds: float) -> str:
    """Counts and rates."""
    seconds = max(seconds, 1e-9)
    return (
        f"{now.documents:,} documents, {now.tokens:,} tokens, "
        f"{now.documents / seconds:,.0f} documents/s, {now.tokens / seconds:,.0f} tokens/s"
    )
