"""An error that several processes of torchrun have is printed once.

In: the error of this process; torchrun's store, through which the processes tell each other about theirs.
Out: the text that this process prints, if any.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

_SECONDS = 3.0  # in which the other processes meet the same error
_PAUSE = 0.02


def has_company() -> bool:
    """Whether torchrun started several processes."""
    size = os.environ.get("WORLD_SIZE", "")
    return size.isdigit() and int(size) > 1 and os.environ.get("RANK", "").isdigit()


def text_to_print(message: str, code: int) -> str | None:
    """What this process prints about its error; None if a process of a lower rank prints it.

    The rank is named unless all processes have the error. A process that fails only because another one has failed
    calls `code_of_others` instead. SIGTERM, which torchrun sends once a process has ended, is ignored from here on.
    """
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _store()
    if store is None:
        return f"rank {rank} of {size}: {message}"
    store.set(str(rank), json.dumps([message, code]))
    deadline = time.monotonic() + _SECONDS
    while len(found := _found(store, size)) < size and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    same = [other for other, (text, _) in found.items() if text == message]
    if rank != min(same):
        return None
    return message if len(same) == size else f"rank {rank} of {size}: {message}"


def code_of_others(*, wait: bool) -> int | None:
    """The exit code of another process that has an error; None if none has.

    Args:
        wait: this process fails in a collective, so another one has failed and is about to say so.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _store()
    if store is None:
        return None
    if wait:
        store.set(str(rank), json.dumps(["", 1]))
    deadline = time.monotonic() + (_SECONDS if wait else 0)
    while True:
        codes = [code for other, (text, code) in _found(store, size).items() if other != rank and text]
        if codes or time.monotonic() > deadline:
            return codes[0] if codes else None
        time.sleep(_PAUSE)


def _store() -> Store | None:
    """Torchrun's store; None if it cannot be reached. Torch is imported only after a failure."""
    import torch.distributed as dist

    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=_SECONDS),
            wait_for_workers=False,
        )
    except (KeyError, ValueError, RuntimeError):
        return None
    return dist.PrefixStore(f"minilm errors {restart}", store)  # type: ignore[attr-defined]


def _found(store: Store, size: int) -> dict[int, tuple[str, int]]:
    """The errors so far, by rank."""
    ranks = [rank for rank in range(size) if store.check([str(rank)])]
    return {rank: (text, code) for rank in ranks for text, code in [json.loads(store.get(str(rank)))]}
