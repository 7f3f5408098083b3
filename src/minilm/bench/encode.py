"""`minilm bench encode`: texts in, vectors out, with our engines and with sentence-transformers.

In: a model folder, texts. Out: a row per workload and side, and what it was measured on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from minilm.bench.peaks import instruction_set, unit_peaks
from minilm.bench.rounds import Measured
from minilm.bench.sides import RunningSides, Side, our_sides, peer_sides
from minilm.bench.workloads import MOST_TOKENS, Workload, encode_workloads, work_of
from minilm.environment import machine
from minilm.infer.engines.protocol import Float32s
from minilm.infer.engines.threads import num_threads
from minilm.infer.vectors import normalized
from minilm.model.config import EncoderConfig
from minilm.model.embedding_files import read_embedding
from minilm.model.metadata import read_config
from minilm.progress import Progress
from minilm.text.tokenizer import Tokenizer

ROUNDS = 3
PACKAGES = ("torch", "numpy", "tokenizers", "transformers", "sentence-transformers")
"""The packages whose versions are stored."""
_COMPARED = "32 a call"  # the workload whose vectors are compared


@dataclass(frozen=True, kw_only=True)
class Row:
    """One workload with one side.

    Attributes:
        workload: its name.
        side: its name.
        seconds: of all calls, median of the rounds.
        tokens_per_second: real tokens, not padding.
        p50_ms: median over all calls; None if the workload is not a latency.
        share: of the peak of the units; None where that is not known.
        ratio: speed relative to the last side, if that is a peer.
    """

    workload: str
    side: str
    seconds: float
    tokens_per_second: float
    p50_ms: float | None
    share: float | None
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class SideFacts:
    """A side that was measured.

    Attributes:
        name: its name.
        start_seconds: of a new process until its first vector, Python's start included.
        memory_mb: of the process then.
        least_cosine: of its vectors with those of the first side; None where one is not a finite number.
    """

    name: str
    start_seconds: float
    memory_mb: float | None
    least_cosine: float | None


def bench_encode(
    folder: Path, *, texts: Sequence[str], name: str | None = None, threads: int | None = None, rounds: int = ROUNDS
) -> dict[str, object]:
    """Measure a model; the result is what `--json` writes.

    Args:
        folder: of the model.
        texts: what it encodes.
        name: what the result calls it; by default its path.
        threads: that compute.
        rounds: that count.

    Raises:
        DataError: the folder is not a model, or its files are inconsistent.
        UsageError: no engine can run it, or not with that many threads.
    """
    threads = num_threads(threads)
    config = read_config(folder)
    limit = min(MOST_TOKENS, config.max_tokens)
    workloads = workloads_of(folder, texts, max_tokens=limit)
    name = str(folder) if name is None else name
    sides, missing = our_sides(folder, max_tokens=limit, name=name), []
    if find_spec("sentence_transformers") is None:
        missing.append("sentence-transformers is not installed; to compare with it: pip install 'minilm[bench]'")
    else:
        sides += peer_sides(folder, max_tokens=limit)
    found = compare(sides, workloads, config, threads=threads, rounds=rounds)
    return {"model": name, **found, "left_out": [*missing, *_lines(found["left_out"])]}


def workloads_of(folder: Path, texts: Sequence[str], *, max_tokens: int) -> list[Workload]:
    """The workloads of a model; raises DataError if the folder is inconsistent."""
    embedding = read_embedding(folder, model_max_tokens=max_tokens)
    tokenizer = Tokenizer.load(folder)
    return encode_workloads(
        texts,
        tokenizer.lowercased() if embedding.lowercase else tokenizer,
        max_tokens=max_tokens,
        prompt=embedding.prompt_of(prompt=None, role=None),
    )


def compare(
    sides: Sequence[Side],
    workloads: Sequence[Workload],
    config: EncoderConfig,
    *,
    threads: int,
    rounds: int,
    packages: Sequence[str] = PACKAGES,
) -> dict[str, object]:
    """Run the workloads with all sides, in turn; the versions of `packages` are stored.

    Raises:
        UsageError: no side can run.
    """
    peaks = unit_peaks(threads)
    rows: list[Row] = []
    described = []
    with RunningSides(sides, threads=threads) as running, Progress("bench") as progress:
        progress.begin(len(workloads))
        running.take({one.name: one.calls for one in workloads})
        compared = next(one for one in workloads if one.name == _COMPARED)
        vectors = running.vectors(compared.name, operations=work_of(config, compared.lengths).operations)
        for workload in workloads:
            operations = work_of(config, workload.lengths).operations
            measured = running.measure(workload.name, operations=operations, rounds=rounds)
            rows += rows_of(measured, workload, config, {side.name: side.precision for side in sides}, peaks)
            described.append(_described(workload, measured, operations))
            progress.advance()
        facts = [
            SideFacts(
                name=name,
                start_seconds=process.start_seconds,
                memory_mb=process.memory_mb,
                least_cosine=_least_cosine(vectors[name], next(iter(vectors.values()))),
            )
            for name, process in running.processes.items()
        ]
        left_out = list(running.left_out)
    return {
        "machine": machine(packages),
        "instruction set": instruction_set(),
        "threads": threads,
        "peaks": peaks,
        "workloads": described,
        "sides": [asdict(one) for one in facts],
        "rows": [asdict(one) for one in rows if one.side in running.processes],
        "left_out": left_out,
    }


def rows_of(
    measured: Measured,
    workload: Workload,
    config: EncoderConfig,
    precisions: Mapping[str, str],
    peaks: Mapping[str, float],
) -> list[Row]:
    """A row per side; `precisions` are those of all sides, the peer that the ratios are to last."""
    seconds = {
        name: statistics.median(sum(one[name].seconds) for one in measured.rounds) for name in measured.rounds[0]
    }
    peer = list(precisions)[-1]
    peer_seconds = seconds.get(peer) if peer.startswith("sentence-transformers") else None
    work = work_of(config, workload.lengths)
    rows = []
    for name, taken in seconds.items():
        floor = work.least_seconds(precisions[name], peaks)
        calls = [second for one in measured.rounds for second in one[name].seconds]
        rows.append(
            Row(
                workload=workload.name,
                side=name,
                seconds=taken,
                tokens_per_second=workload.tokens / taken,
                p50_ms=1e3 * statistics.median(calls) if workload.is_latency else None,
                share=None if floor is None else floor / taken,
                ratio=None if peer_seconds is None else peer_seconds / taken,
            )
        )
    return rows


def _described(workload: Workload, measured: Measured, operations: int) -> dict[str, object]:
    return {
        "name": workload.name,
        "texts": len(workload.lengths),
        "calls": len(workload.calls),
        "tokens": workload.tokens,
        "operations": operations,
        **measured.facts(),
    }


def _least_cosine(vectors_BE: Float32s, reference_BE: Float32s) -> float | None:
    least = float((normalized(vectors_BE) * normalized(reference_BE)).sum(1, dtype=np.float64).min())
    return least if math.isfinite(least) else None


def _lines(value: object) -> list[str]:
    assert isinstance(value, list)
    return value
