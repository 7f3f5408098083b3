"""Proves that freed memory stays in the process until it is given back, and that this happens when it piles up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minilm.train import allocator
from minilm.train.allocator import KeptMemory

# Blocks between which others stay, so that nothing lies free at the end of the heap.
PROGRAM = """
import torch
from minilm.train.allocator import give_back_freed_memory, keep_freed_memory, resident_gib

assert keep_freed_memory()
blocks = [torch.ones(size) for _ in range(32) for size in (2_000_000, 2_000)]
full = resident_gib()
del blocks[::2]
kept = resident_gib()
assert give_back_freed_memory()
print(full, kept, resident_gib())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is asked")
def test_freed_memory_is_kept_until_it_is_given_back():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, kept, given_back = map(float, run.stdout.split())
    assert kept == pytest.approx(full, abs=0.02)
    assert given_back < full - 0.2  # of 0.24 GiB


def test_memory_is_given_back_when_the_process_has_grown_by_half(monkeypatch):
    held = iter([2.0, 2.9, 3.0, 3.1, 2.2, 3.2, 3.4])
    calls = []
    monkeypatch.setattr(allocator, "resident_gib", lambda: next(held))
    monkeypatch.setattr(allocator, "give_back_freed_memory", lambda: calls.append(1))
    memory = KeptMemory()
    given_back = []
    for _ in range(7):
        calls.clear()
        memory.after_step()
        given_back.append(bool(calls))
    assert given_back == [False, False, False, True, False, False, True]


def test_where_the_system_tells_no_memory_nothing_is_given_back(monkeypatch):
    monkeypatch.setattr(allocator, "resident_gib", lambda: 0.0)
    monkeypatch.setattr(allocator, "give_back_freed_memory", lambda: pytest.fail("given back"))
    memory = KeptMemory()
    for _ in range(3):
        memory.after_step()
