"""Turn a stream of texts into token ids, in this process or in several worker processes.

In: an iterator of texts and a tokenizer path. Out: one `TokenizedBatch` per batch of texts, in order.
Batches are formed before they are distributed and results are collected in order, so the output does not depend on
the number of workers. At most one batch per worker is in flight, so memory is bounded.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from minilm.errors import MinilmError, SystemProblem

if TYPE_CHECKING:
    from minilm.text.tokenizer import Tokenizer

BATCH_TEXTS = 1000
BATCH_CHARS = 2**20

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class TokenizedBatch:
    """The documents of one batch of texts.

    Attributes:
        token_ids: all documents concatenated, int32 [tokens].
        lengths: tokens per document, int32 [documents].
        texts: number of source texts.
        empty_texts: number of texts without any token, such as control characters only.
    """

    token_ids: Int32s
    lengths: Int32s
    texts: int
    empty_texts: int


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group texts into batches of 1000 texts or about a million characters; a longer text forms its own batch."""
    batch: list[str] = []
    chars = 0
    for text in texts:
        if batch and (len(batch) == BATCH_TEXTS or chars + len(text) > BATCH_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(text)
        chars += len(text)
    if batch:
        yield batch


def tokenize_here(tokenizer: Tokenizer, texts: Sequence[str], *, max_tokens: int) -> TokenizedBatch:
    """Split every text into documents of at most max_tokens, [CLS] (if there is one) and [SEP] included."""
    pieces: list[Int32s] = []
    empty_texts, special = 0, len(tokenizer.before) + 1
    room = max_tokens - special
    for ids in _encode(tokenizer, texts):
        empty_texts += not len(ids)
        pieces.extend(ids[start : start + room] for start in range(0, len(ids), room))
    lengths = np.array([len(piece) + special for piece in pieces], dtype=np.int32)
    ends = np.cumsum(lengths)
    starts = (ends - lengths)[: len(ends) * len(tokenizer.before)]  # all, or none
    token_ids = np.empty(int(lengths.sum()), dtype=np.int32)
    inner = np.ones(len(token_ids), dtype=bool)
    inner[starts] = inner[ends - 1] = False
    token_ids[starts] = tokenizer.before
    token_ids[ends - 1] = tokenizer.sep_id
    token_ids[inner] = np.concatenate(pieces) if pieces else []
    return TokenizedBatch(token_ids=token_ids, lengths=lengths, texts=len(texts), empty_texts=empty_texts)


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Int32s]:
    """Tokenize a batch; a huge text is tokenized in parts, which bounds the tokenizer's memory."""
    if len(texts) > 1 or len(texts[0]) <= BATCH_CHARS:
        return tokenizer.encode(texts, special_tokens=False)
    return [np.concatenate([tokenizer.encode([part], special_tokens=False)[0] for part in _parts(texts[0])])]


def _parts(text: str) -> Iterator[str]:
    """Split before whitespace, so that no word is split (unless a word is itself huge)."""
    start = 0
    while start < len(text):
        stop = start + BATCH_CHARS
        if stop < len(text):
            blank = max(text.rfind(" ", start + 1, stop), text.rfind("\n", start + 1, stop))
            stop = blank if blank > 0 else stop
        yield text[start:stop]
        start = stop


def tokenize_in_workers(
    texts: Iterable[str], *, tokenizer: Path, max_tokens: int, workers: int
) -> Generator[TokenizedBatch, None, None]:
    """Tokenize in `workers` fresh processes; yields the same batches as `tokenize_here`.

    Raises:
        SystemProblem: a worker process died, for example because memory ran out.
    """
    crew = [_start_worker(tokenizer, max_tokens) for _ in range(workers)]
    idle = deque(connection for _, connection in crew)
    busy: deque[Connection] = deque()  # in the order of their batches; each has at most one
    try:
        for batch in batches(texts):
            if not idle:
                yield _received(busy[0])
                idle.append(busy.popleft())
            busy.append(idle.popleft())
            busy[-1].send(batch)
        while busy:
            yield _received(busy.popleft())
    except (EOFError, ConnectionError) as error:
        raise SystemProblem(
            "a tokenizing worker process died (killed, or out of memory); nothing was written; "
            f"use fewer workers (now {workers}); in a script, call this under: if __name__ == '__main__'"
        ) from error
    finally:
        for process, connection in crew:
            connection.close()
            process.terminate()
            process.join()


def _start_worker(tokenizer: Path, max_tokens: int) -> tuple[SpawnProcess, Connection]:
    """Start a fresh process with its own pipe, which reports the death of the process immediately."""
    context = multiprocessing.get_context("spawn")  # fork may deadlock in the tokenizer's threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, tokenizer, max_tokens), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _received(connection: Connection) -> TokenizedBatch:
    result: TokenizedBatch | Exception = connection.recv()
    if isinstance(result, Exception):
        raise result
    return result


def _work(connection: Connection, path: Path, max_tokens: int) -> None:
    """Tokenize batch after batch until the parent closes the pipe or exits."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    from minilm.text.tokenizer import Tokenizer

    with contextlib.suppress(EOFError, ConnectionError):
        try:
            tokenizer = Tokenizer.load(path)
            while True:
                connection.send(tokenize_here(tokenizer, connection.recv(), max_tokens=max_tokens))
        except MinilmError as error:
            connection.send(error)
