"""`minilm bench model`: how long the published shapes take, with random weights, in torch and natively.

In: nothing. Out: a row per shape, engine and batch, and what it was measured on. Token ids in, pooled vectors out.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from minilm.bench.encode import PACKAGES, ROUNDS
from minilm.bench.peaks import instruction_set, unit_peaks
from minilm.bench.sides import RunningSides, Side
from minilm.bench.workloads import work_of
from minilm.environment import machine
from minilm.files.atomic import make_folder
from minilm.infer.engines import ENGINES
from minilm.infer.engines.threads import num_threads
from minilm.model.config import PRESETS, EncoderConfig
from minilm.progress import Progress

BASE = "BERT-Base"
PUBLISHED = {BASE: 1.0, "L12-H384": 2.7, "L6-H384": 5.3, "L6-H768": 2.0}
"""The speed of each shape relative to BERT-Base, in the paper and Microsoft's table of models, measured on a GPU."""
BATCHES = ((128, 1), (128, 8), (512, 1))
"""(tokens of a sequence, sequences) of a call."""
_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One shape with one engine and one size of batch.

    Attributes:
        shape: its name.
        engine: that ran it.
        tokens: of a sequence.
        sequences: of a call.
        seconds: of a call, median.
        ratio: speed relative to BERT-Base with the same engine.
        share: of the peak of the units; None where that is not known.
    """

    shape: str
    engine: str
    tokens: int
    sequences: int
    seconds: float
    ratio: float
    share: float | None


def bench_model(
    *,
    threads: int | None,
    rounds: int = ROUNDS,
    shapes: Mapping[str, EncoderConfig] = PRESETS,
    batches: Sequence[tuple[int, int]] = BATCHES,
) -> dict[str, object]:
    """Measure the shapes, of which one is called BERT-Base; the result is what `--json` writes.

    Raises:
        SystemProblem: the temporary folder is full.
        UsageError: no engine can run with that many threads.
    """
    threads = num_threads(threads)
    peaks = unit_peaks(threads)
    rows: list[Row] = []
    described: list[dict[str, object]] = []
    with TemporaryDirectory(prefix="minilm-bench-") as folder, Progress("bench") as progress:
        models = {name: str(_write(Path(folder) / name, config)) for name, config in shapes.items()}
        request = {"kind": "engine", "models": models, "first": _calls(shapes, 1, 1)[0]}
        sides = [Side(name=engine, request={**request, "engine": engine}) for engine in list(ENGINES)[::-1]]
        with RunningSides(sides, threads=threads) as running:
            running.take({_name(*batch): _calls(shapes, *batch) for batch in batches})
            progress.begin(len(batches))
            for tokens, sequences in batches:
                operations = _CALLS * sum(work_of(one, [tokens] * sequences).operations for one in shapes.values())
                measured = running.measure(_name(tokens, sequences), operations=operations, rounds=rounds)
                described.append({"name": _name(tokens, sequences), **measured.facts()})
                for engine in running.processes:
                    runs = [one[engine].seconds for one in measured.rounds]
                    rows += _rows(runs, shapes, engine, (tokens, sequences), peaks)
                progress.advance()
            left_out = list(running.left_out)
    return {
        "machine": machine(PACKAGES),
        "instruction set": instruction_set(),
        "threads": threads,
        "peaks": peaks,
        "published": PUBLISHED,
        "workloads": described,
        "rows": [asdict(one) for one in rows],
        "left_out": left_out,
    }


def _name(tokens: int, sequences: int) -> str:
    return f"{tokens} x {sequences}"


def _calls(shapes: Iterable[str], tokens: int, sequences: int) -> list[dict[str, object]]:
    """All shapes in turn, several times."""
    return [{"model": shape, "lengths": [tokens] * sequences} for _ in range(_CALLS) for shape in shapes]


def _rows(
    runs: Sequence[Sequence[float]],
    shapes: Mapping[str, EncoderConfig],
    engine: str,
    batch: tuple[int, int],
    peaks: Mapping[str, float],
) -> list[Row]:
    """A row per shape; the seconds of a run are those of all shapes in turn."""
    tokens, sequences = batch
    seconds = {
        shape: statistics.median(second for run in runs for second in run[number :: len(shapes)])
        for number, shape in enumerate(shapes)
    }
    rows = []
    for shape, config in shapes.items():
        floor = work_of(config, [tokens] * sequences).least_seconds("fp32", peaks)
        rows.append(
            Row(
                shape=shape,
                engine=engine,
                tokens=tokens,
                sequences=sequences,
                seconds=seconds[shape],
                ratio=seconds[BASE] / seconds[shape],
                share=None if floor is None else floor / seconds[shape],
            )
        )
    return rows


def _write(folder: Path, config: EncoderConfig) -> Path:
    """Write a model with random weights."""
    import torch

    from minilm.model.checkpoint import write_model
    from minilm.model.encoder import Encoder
    from minilm.model.heads import Model

    encoder = Encoder(config)
    encoder.reset(torch.Generator().manual_seed(0))
    make_folder(folder)
    write_model(Model(encoder), folder)
    return folder
