"""A forked process and what its parent made: an error or the same result, and never a wait for what does not exist."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np
from tests.commands import in_a_child
from tests.kernels.conftest import batch_of, encoder_of, weights_of

from minilm.kernels.encoder import NativeEncoder, Sizes
from minilm.kernels.relations import PairOfRows, RelationKernel, Rows

SIZES = Sizes(hidden=64, heads=2, ffn=256, layers=2, vocab=20, positions=520, segments=0)
IN_USE = "the model was running when this process was forked: make another one in the child"


def test_the_kernels_notice_a_fork_themselves(isa):
    """Without the check in Python, which comes before theirs."""
    batch, weights = batch_of(SIZES, [20, 30]), weights_of(SIZES)
    encoder = encoder_of(SIZES, weights, threads=2)
    encoder.pooled(*batch, ["mean"])
    rows = np.ones((8, 4), np.float32)
    side = [Rows(address=rows.ctypes.data, stride=4)]
    pair = PairOfRows(teacher=side, student=side, heads=1, widths=(4, 4))
    kernel = RelationKernel(threads=2)

    def used(one: NativeEncoder | RelationKernel, work: Callable[[], object]) -> str:
        one._process = os.getpid()
        return f"no error: {work()}"

    said = in_a_child(lambda: used(encoder, lambda: encoder.pooled(*batch, ["mean"])))
    assert said == "the native engine: the threads of a model do not survive a fork"
    ends, factors = np.array([0, 8], np.int32), np.ones(1)
    said = in_a_child(lambda: used(kernel, lambda: kernel.run(pair, ends, factors)))
    assert said == "the relation kernel: the threads of a kernel do not survive a fork"


def test_a_model_of_one_thread_runs_in_a_child(isa):
    """Also if several threads of the child use it, and in a child of the child."""
    batch, encoder = batch_of(SIZES, [20, 30]), encoder_of(SIZES, weights_of(SIZES))
    expected = encoder.pooled(*batch, ["mean"])

    def used() -> str:
        found: list[bool] = []
        work = lambda: found.append(np.array_equal(encoder.pooled(*batch, ["mean"]), expected))  # noqa: E731
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return str(found)

    assert in_a_child(used) == str([True] * 4)
    assert in_a_child(lambda: in_a_child(used)) == str([True] * 4)


def test_a_child_of_a_process_whose_other_thread_was_running_does_not_wait_for_it(monkeypatch):
    """What was half computed is not used; the parent goes on."""
    monkeypatch.setenv("MINILM_ISA", "scalar")
    long, short = batch_of(SIZES, [512] * 4), batch_of(SIZES, [3])
    encoder = encoder_of(SIZES, weights_of(SIZES))
    expected, said = encoder.pooled(*short, ["mean"]), ""
    for _ in range(5):  # the thread has not begun where the machine is busy
        running = threading.Thread(target=lambda: encoder.pooled(*long, ["mean"]))
        running.start()
        time.sleep(0.05)
        said = in_a_child(lambda: str(np.array_equal(encoder.pooled(*short, ["mean"]), expected)))
        running.join(timeout=60)
        if IN_USE in said:
            break
    assert IN_USE in said
    assert np.array_equal(encoder.pooled(*short, ["mean"]), expected)
