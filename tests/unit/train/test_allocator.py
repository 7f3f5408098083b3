"""Proves that freed memory stays in the process until it is given back."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Blocks between which others stay, so that nothing lies free at the end of the heap.
PROGRAM = """
import torch
from minilm.train.allocator import give_back_freed_memory, keep_freed_memory
from minilm.train.progress import resident_gib

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
