"""How fast a device is: training steps as users run them, encoding, search; and where the time of a step goes.

In: `Cases`. Out: a row for each rate. A step is measured in the training loop, from its batch to its update.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import distillations
import torch
from cases import Cases, random_relations
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from minilm.decode.beam import search
from minilm.decode.settings import GenerationSettings
from minilm.distill.relation_kernel import loss_implementation
from minilm.distill.relation_loss import V2_PAIRS, relation_loss, relation_loss_torch
from minilm.infer.engines.torch import TorchEngine
from minilm.model.encoder import Relations
from minilm.model.packed_ids import pack_ids
from minilm.model.packing import Packed, pack
from minilm.train.accumulate import Batch
from minilm.train.loop import Objective, TrainSettings, accumulate_in, train
from minilm.train.metrics import read_metrics

Row = Mapping[str, object]

GOAL = 1.3e6
"""Tokens a second of a distillation in bfloat16 on an H200."""
_WARM_UP = 3  # steps, in which Triton compiles
_MOST_STEPS = 200
_SHOWN = 12  # kernels


def distillation(cases: Cases) -> Iterator[Row]:
    """MiniLMv2 in bfloat16 on documents of equal lengths, then on those of text."""
    size = cases.size
    mixed = cases.mixed_lengths(size.tokens // size.lengths[-1])
    for name, lengths in (
        *((f"all of {length} tokens", [length] * (size.tokens // length)) for length in size.lengths),
        ("lengths as of text", mixed),
    ):
        objective = distillations.objective(
            cases, 4 * lengths, place=cases.device, precision="bf16", batch=4 * len(lengths), tokens=size.tokens
        )
        yield {
            "work": f"distillation step, {name}",
            "relation loss by": loss_implementation(cases.device),
            **training_rate(objective, cases),
            "goal": GOAL,
        }
        yield from costliest(f"distillation step, {name}", objective, cases)


def relation_losses(cases: Cases) -> Iterator[Row]:
    """The relation loss alone, with gradients, in bfloat16: the kernels and their twin in torch."""
    size, place = cases.size, cases.device
    for length in size.lengths:
        packed = pack(cases.sequences([length] * (size.tokens // length))).to(place)
        teacher, student = (
            random_relations(packed.num_tokens, width, torch.bfloat16, place)
            for width in (size.teacher.hidden_size, size.student.hidden_size)
        )
        for part in vars(student).values():
            part.requires_grad_()
        for name, loss in ((loss_implementation(place), relation_loss), ("torch", relation_loss_torch)):
            work = partial(_relation_loss, loss, teacher, student, packed, size.relation_heads)
            seconds = seconds_of(work, cases)
            yield {"work": f"relation loss, N {length}, by {name}", "tokens/s": packed.num_tokens / seconds}


def _relation_loss(
    loss: Callable[..., Tensor], teacher: Relations, student: Relations, packed: Packed, heads: int
) -> None:
    loss(teacher, student, packed, pairs=V2_PAIRS, num_relation_heads=heads).sum().backward()


def finetuning(cases: Cases) -> Iterator[Row]:
    """Classification of texts of all lengths in both precisions, with 32 and with as many as fill a microbatch."""
    size = cases.size
    lengths = cases.mixed_lengths(max(32, 2 * size.tokens // size.lengths[-1]))
    for batch in (32, len(lengths)):
        objective = cases.finetuning(lengths, place=cases.device, batch=batch, tokens=size.tokens)
        for precision in ("bf16", "fp32"):
            rate = training_rate(objective, cases, precision)
            yield {"work": f"fine-tuning step, {batch} texts, {precision}", **rate}


def encode(cases: Cases) -> Iterator[Row]:
    """Vectors of texts of all lengths, tokens to numpy arrays."""
    size = cases.size
    batch = pack_ids(cases.sequences(cases.mixed_lengths(size.tokens // size.lengths[-1])))
    for precision in ("bf16", "fp32"):
        engine = TorchEngine(cases.model("classification").to(cases.device), precision=precision)
        for pooling in ("cls", "mean"):
            seconds = seconds_of(partial(engine.pooled, batch, [pooling]), cases)
            rate = {"texts/s": len(batch.lengths) / seconds, "tokens/s": batch.num_tokens / seconds}
            yield {"work": f"encode, {pooling}, {precision}", **rate}


def beam_search(cases: Cases) -> Iterator[Row]:
    """Targets of long sources."""
    longest = cases.size.lengths[-1]
    target = longest // 10
    settings = GenerationSettings(beam_size=5, max_target_tokens=target, min_tokens=target)
    sources = cases.sequences([longest - target] * 32)
    for precision in ("bf16", "fp32"):
        engine = TorchEngine(copy.deepcopy(cases.generator()).to(cases.device), precision=precision)
        decoder = engine.decoder(cases.tokenizer, pos_shift="none")
        seconds = seconds_of(partial(search, decoder, sources, settings), cases)
        yield {"work": f"beam search, {precision}", "targets/s": len(sources) / seconds, "target tokens": target}


def training_rate(objective: Objective[Batch], cases: Cases, precision: str = "bf16") -> dict[str, float]:
    """Tokens a second of the training loop, as it logs them, and the memory it took."""
    if cases.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rows = _logged(objective, precision, steps=_WARM_UP)
    steps = min(_MOST_STEPS, int(cases.size.seconds / rows[-1]["seconds"]) + 1)
    rows = _logged(objective, precision, steps=_WARM_UP + steps)[_WARM_UP:]
    peak = torch.cuda.max_memory_allocated() / 2**30 if cases.device.type == "cuda" else 0.0
    return {
        "tokens/s": statistics.median(row["tokens_per_second"] for row in rows),
        "tokens of a step": statistics.mean(row["tokens"] for row in rows),
        "steps": len(rows),
        "first loss": rows[0]["loss"],
        "last loss": rows[-1]["loss"],
        "peak GiB": peak,
    }


def _logged(objective: Objective[Batch], precision: str, *, steps: int) -> Sequence[Mapping[str, float]]:
    settings = TrainSettings(
        learning_rate=1e-4, precision=precision, log_every=1, steps=steps, warmup_steps=0, seed=1, label="steps"
    )
    with tempfile.TemporaryDirectory() as folder:
        train(objective, settings, folder=Path(folder))
        return read_metrics(Path(folder))


def costliest(work: str, objective: Objective[Batch], cases: Cases) -> Iterator[Row]:
    """The kernels that take most of the time of a step without its update."""
    batch = objective.batch(0)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cases.device.type == "cuda" else [])]
    with profile(activities=kinds) as found:
        accumulate_in("bf16", objective, batch)
        wait_for(cases.device)
    on_device = cases.device.type == "cuda"
    times = {
        one.key: (one.self_device_time_total if on_device else one.self_cpu_time_total, one.count)
        for one in found.key_averages()
    }
    total = sum(time_of for time_of, _ in times.values()) or 1.0
    for name, (time_of, count) in sorted(times.items(), key=lambda item: -item[1][0])[:_SHOWN]:
        yield {"work": work, "kernel": name[:80], "calls": count, "ms": time_of / 1000, "share": time_of / total}


def seconds_of(work: Callable[[], object], cases: Cases) -> float:
    """Median seconds of a call, after two that are not counted."""
    for _ in range(2):
        work()
    times: list[float] = []
    wait_for(cases.device)
    ends = time.perf_counter() + cases.size.seconds / 3
    while not times or time.perf_counter() < ends:
        started = time.perf_counter()
        work()
        wait_for(cases.device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
