"""`minilm embed` from a file to a parquet file, beside the engine alone on the same tokens; and its peak memory.

The rate: A B A B, a new process for each command, start and loading included; the engine gets token ids that are ready.
The memory: many short rows with one of a MiB among them, on one random layer, against the bound of the reference.

    python benchmarks/embed_files.py --json benchmarks/results/embed_files/MACHINE.json
    python benchmarks/embed_files.py --memory-rows 1000000 --rounds 0    # memory alone
"""

from __future__ import annotations

import argparse
import operator
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from ab import json_file, machine, show

from minilm.bench.workloads import paragraphs
from minilm.embedded import embedded_model
from minilm.files.json import write_json
from minilm.infer.api import load
from minilm.infer.batching import TEXTS_PER_CHUNK, in_order
from minilm.infer.engines.threads import usable_threads
from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.encoder import Encoder
from minilm.model.heads import Model
from minilm.model.precision import Precision
from minilm.text.tokenizer import Tokenizer

MIB = 2**20
WIDTH = 384  # of the model whose memory is measured
FEW = 10  # rows of the smallest file
CHUNK_BYTES, DIMENSION_BYTES, CHARACTER_BYTES = 128 * MIB, 160 * 2**10, 80  # of the bound, see docs/reference.md

# A child begins with the peak of its parent, so the parent is a small process.
LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def main() -> None:
    """Measure both, print a line per row and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--memory-rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=usable_threads())
    options = parser.parse_args()
    if options.json:
        json_file(parser, options.json)
    rows: list[dict[str, object]] = []
    with TemporaryDirectory(prefix="minilm-embed-") as folder:
        if options.rounds:
            rows.append(rate(Path(folder), options.rows, options.rounds, options.precision, options.threads))
        if options.memory_rows:
            rows.append(memory(Path(folder), options.memory_rows, options.threads))
    show(rows)
    if options.json:
        write_json(options.json, {"machine": machine(), "rows": rows})


def rate(folder: Path, count: int, rounds: int, precision: Precision, threads: int) -> dict[str, object]:
    """Tokens per second of the whole command and of the engine, medians of all rounds."""
    found = paragraphs()
    texts = [" ".join(found[index % len(found)].split()) for index in range(count)]
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    engine, tokens = engine_alone(texts, precision, threads)
    flags = ["--precision", precision, "--threads", str(threads)]
    seconds: dict[str, list[float]] = {"engine": [], "command": []}
    peak = 0.0
    engine()
    for _ in range(rounds):
        started = time.perf_counter()
        engine()
        seconds["engine"].append(time.perf_counter() - started)
        took, used = command("embedded", folder / "texts.txt", folder / "vectors.parquet", *flags)
        seconds["command"].append(took)
        peak = max(peak, used)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "what": "rate",
        "precision": precision,
        "threads": threads,
        "rows": count,
        "tokens": tokens,
        "rounds": rounds,
        **{f"{name} tokens/s": tokens / value for name, value in medians.items()},
        "share": statistics.median(map(operator.truediv, seconds["engine"], seconds["command"])),
        "seconds": seconds,
        "peak MiB": peak,
    }


def engine_alone(texts: Sequence[str], precision: Precision, threads: int) -> tuple[Callable[[], object], int]:
    """A call that computes the vectors of token ids, chunk by chunk as the command does; and their number."""
    model = load(embedded_model(), precision=precision, threads=threads)
    ids = model.embedding_tokenizer.encode(texts, max_length=model.embedding.max_tokens, truncated=[])

    def compute() -> None:
        for start in range(0, len(ids), TEXTS_PER_CHUNK):
            in_order(
                ids[start : start + TEXTS_PER_CHUNK],
                None,
                lambda batch: model.engine.pooled(batch, model.embedding.pooling),
                tokens_per_batch=model.engine.tokens_per_batch,
            )

    return compute, sum(map(len, ids))


def memory(folder: Path, count: int, threads: int) -> dict[str, object]:
    """Peak memory of a few rows, of many with a long one among them, and the bound."""
    model = folder / "one-layer"
    write_random_model(model)
    words = ("the", "river", "waits", "near", "an", "old", "bridge", "while", "small", "dogs", "pass", "houses")
    draw = np.random.default_rng(0)
    peaks = []
    for rows, longest in ((FEW, 0), (count, MIB)):
        with (folder / "rows.txt").open("w", encoding="utf-8") as file:
            for number in range(rows):
                text = " ".join(draw.choice(words, 8))
                file.write((text * (longest // len(text)) if longest and number == rows // 2 else text) + "\n")
        peaks.append(command(str(model), folder / "rows.txt", folder / "vectors.parquet", "--threads", str(threads))[1])
    bound = peaks[0] + (CHUNK_BYTES + WIDTH * DIMENSION_BYTES + MIB * CHARACTER_BYTES) / MIB
    return {
        "what": "memory",
        "rows": count,
        "longest row, characters": MIB,
        "few rows MiB": peaks[0],
        "peak MiB": peaks[1],
        "bound MiB": bound,
    }


def write_random_model(folder: Path) -> None:
    """Write one random layer of the usual width, with the tokenizer of the embedded model."""
    folder.mkdir()
    config = EncoderConfig(num_layers=1, hidden_size=WIDTH, num_heads=12, intermediate_size=WIDTH)
    encoder = Encoder(config)
    encoder.reset(torch.Generator().manual_seed(0))
    write_model(Model(encoder), folder)
    Tokenizer.load(embedded_model()).save(folder)
    write_embedding(folder, EmbeddingSettings(max_tokens=16), hidden_size=WIDTH)


def command(model: str, source: Path, output: Path, *flags: str) -> tuple[float, float]:
    """Seconds and peak memory in MiB of one `minilm embed`."""
    words = [sys.executable, "-m", "minilm.cli.app", "embed", model, "--input", source, "--output", output, *flags]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *words], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout) / 1024


if __name__ == "__main__":
    main()
