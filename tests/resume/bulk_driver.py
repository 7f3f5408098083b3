"""Runs `minilm generate`, `embed` or `mine` in forked children, kills and restarts them; torch is imported once.

Usage: python bulk_driver.py JSON, with [[[word, ..], number], ..]: the command line and where to kill it. One
child per entry, one after the other; it kills itself at its n-th call of `_CALLS` (before it or, every other time,
after it); 0 runs to the end. Prints one JSON list: [exit status, rows or pairs computed, calls] each.
`embed` reads two rows per chunk, and `mine` two queries.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time

import pyarrow.parquet
import rich.progress
import safetensors.torch
import tokenizers
import torch

from minilm.cli.app import build_app, main
from minilm.infer import generate as generate_module
from minilm.infer import predictions
from minilm.infer.bulk import embed as embed_file
from minilm.infer.bulk import generate as generate_file
from minilm.retrieval import mine as mine_file

_CALLS = ("fsync", "replace", "unlink")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def child(words: list[str], kill_at: int, report: int) -> None:
    calls = computed = 0

    def write_counts() -> None:
        os.pwrite(report, f"{computed:8d}{calls:8d}".encode(), 0)

    def counted(original):
        def call(*arguments, **keywords):
            nonlocal calls
            calls += 1
            write_counts()
            if calls == kill_at and calls % 2:
                die()
            try:
                return original(*arguments, **keywords)
            finally:
                if calls == kill_at:
                    die()

        return call

    def watched(original):
        def call(*arguments, **keywords):
            nonlocal computed
            found = original(*arguments, **keywords)
            computed += len(arguments[1])
            write_counts()
            return found

        return call

    generate_module.search = watched(generate_module.search)
    embed_file.stored_part = watched(embed_file.stored_part)
    predictions.score_part = watched(predictions.score_part)
    embed_file.TEXTS_PER_CHUNK = mine_file.QUERIES_PER_CHUNK = 2
    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    status = 1
    try:
        main(words)
    except SystemExit as done:
        status = int(done.code or 0)
    finally:
        os._exit(status)


def drive() -> None:
    with torch.device("meta"):
        torch.nn.Embedding(2, 2)  # imports what reading a model needs
    with contextlib.suppress(ImportError):  # an extra
        importlib.import_module("bm25s")
    build_app()  # imports the commands
    assert all((pyarrow.parquet, rich.progress, safetensors.torch, tokenizers, embed_file, generate_file, mine_file)), (
        "imported before the first fork"
    )
    report = os.memfd_create("report")
    results = []
    for words, kill_at in json.loads(sys.argv[1]):
        os.pwrite(report, b" " * 7 + b"0" + b" " * 7 + b"0", 0)
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)
            child(words, kill_at, report)
        _, status = os.waitpid(pid, 0)
        counts = os.pread(report, 16, 0)
        results.append([os.waitstatus_to_exitcode(status), int(counts[:8]), int(counts[8:])])
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    drive()
