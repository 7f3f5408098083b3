"""The relation loss alone: the compiled kernel beside its twin in torch, forward and backward, in turn in one process.

QQ, KK and VV of a teacher of width 768 and a student of width 384, R = 48, random numbers. Time A B A B, peak memory in
a process for each side. The floor is the products that the loss needs (half of them, by symmetry) at the measured peak
of the units. `ab.py` drops rounds in which other processes took the processors.

    python benchmarks/relation_loss.py --json benchmarks/results/relation_loss/MACHINE.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ab import interleaved, json_file, show

from minilm.bench.peaks import instruction_set, unit_peaks
from minilm.distill.relation_loss import V2_PAIRS, Relations, relation_loss, relation_loss_torch
from minilm.environment import machine
from minilm.files.json import write_json
from minilm.model.packing import pack
from minilm.train.allocator import keep_freed_memory

HEADS, TEACHER, STUDENT = 48, 768, 384
BATCHES = ((128, 16), (512, 4), (2048, 1), (4096, 1))
SIDES = {"compiled": relation_loss, "torch": relation_loss_torch}
ROUNDS = {128: 9, 512: 7, 2048: 3, 4096: 3}


def main() -> None:
    """Measure, print a line per row and write JSON; with --child, one side's memory alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, metavar=("SIDE", "PRECISION", "TOKENS", "SEQUENCES"))
    options = parser.parse_args()
    if options.child:
        side, precision, tokens, sequences = options.child
        print(json.dumps(growth(work(side, precision, int(tokens), int(sequences)))))
        return
    if options.json is None:
        parser.error("--json: expected a file")
    file = json_file(parser, options.json)
    keep_freed_memory()
    threads = torch.get_num_threads()
    peaks = unit_peaks(threads)
    rows = [row for tokens, sequences in BATCHES for row in compare(tokens, sequences, peaks["fp32"])]
    show(rows)
    facts = {"machine": machine(["torch", "numpy"]), "threads": threads, "instruction set": instruction_set()}
    write_json(file, {**facts, "peaks": peaks, "rows": rows})


def compare(tokens: int, sequences: int, peak: float) -> list[dict[str, object]]:
    """Seconds, memory and difference of both sides in both precisions of the projections."""
    names = [(side, precision) for precision in ("fp32", "bf16") for side in SIDES]
    works = {f"{side} {precision}": work(side, precision, tokens, sequences) for side, precision in names}
    losses = {name: run() for name, run in works.items()}
    seconds = interleaved(works, repetitions=ROUNDS[tokens])
    # z of both sides and two gradients for each pair of tokens, half of them by symmetry.
    operations = 3 * sequences * HEADS * tokens**2 * (TEACHER + 3 * STUDENT) // HEADS
    return [
        {
            "tokens": tokens,
            "sequences": sequences,
            "precision": precision,
            "side": side,
            "seconds": seconds[f"{side} {precision}"],
            "memory_mib": memory(side, precision, tokens, sequences),
            "share": operations / seconds[f"{side} {precision}"] / peak / 1e9,
            "ratio": seconds[f"torch {precision}"] / seconds[f"{side} {precision}"],
            "difference": abs(losses[f"{side} {precision}"] / losses[f"torch {precision}"] - 1),
        }
        for side, precision in names
    ]


def work(side: str, precision: str, tokens: int, sequences: int) -> Callable[[], float]:
    """Loss and gradients of one batch."""
    packed = pack([np.ones(tokens, dtype=np.int64)] * sequences)
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def projections(width: int) -> Relations:
        shape = (tokens * sequences, 12, width // 12)
        return Relations(
            **{name: torch.randn(shape, generator=generator).to(dtype) for name in ("query", "key", "value")}
        )

    teacher, student = projections(TEACHER), projections(STUDENT)
    leaves = [rows.requires_grad_() for rows in (student.query, student.key, student.value)]

    def run() -> float:
        loss = SIDES[side](teacher, student, packed, pairs=V2_PAIRS, num_relation_heads=HEADS).sum()
        loss.backward()
        for rows in leaves:
            rows.grad = None
        return loss.item()

    return run


def growth(run: Callable[[], float]) -> float:
    """MiB by which the resident size grows at most; calls on few tokens before it load what is loaded once."""
    work("torch", "fp32", 8, 1)()
    work("compiled", "fp32", 8, 1)()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the largest size is now the size
    before = largest_size()
    run()
    return largest_size() - before


def largest_size() -> float:
    """The largest resident size of this process, in MiB; that of `getrusage` begins with the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def memory(*arguments: object) -> float:
    """`growth` in a separate process."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800)
    found: float = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
