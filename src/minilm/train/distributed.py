"""Data-parallel training with torchrun, one process per device: ranks and collectives.

In: the environment set by torchrun. Out: `Ranks`, and collectives that are no-ops for a single process.

The gradient of a step is the sum over processes of the gradients for their shares of the global batch. The objective
weights the shares, so the sum is the gradient of the global batch for any number of processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minilm.errors import UsageError

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Rank of this process among `world_size`; the first process writes files."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


ALONE = Ranks()
_PATIENCE = timedelta(days=1)
"""How long processes wait for one that builds a corpus or probes; torchrun ends those that wait for one that failed."""


@contextlib.contextmanager
def process_group() -> Iterator[Ranks]:
    """Join torchrun's process group for the duration of the block; `ALONE` outside torchrun.

    Uses NCCL on GPUs (process i of a machine uses GPU i) and gloo on CPUs.

    Raises:
        UsageError: the environment is incomplete.
    """
    world_size = _from_environment("WORLD_SIZE", 1)
    if world_size == 1:
        yield ALONE
        return
    rank = _from_environment("RANK", None)
    if torch.cuda.is_available():
        torch.cuda.set_device(_from_environment("LOCAL_RANK", 0))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    dist.barrier()  # one that fails at once would close connections that others are still opening
    root = logging.getLogger("minilm")
    level = root.level
    if rank:  # problems found by all processes are logged by the first only
        root.setLevel(logging.ERROR)
    try:
        yield Ranks(rank=rank, world_size=world_size)
    finally:
        root.setLevel(level)
        dist.destroy_process_group()


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Leave torch's generators as they were, of the CPU and of this process's GPU; no other GPU is initialized."""
    own = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(own):
        yield


def is_first_process() -> bool:
    """Whether this process, started by torchrun or not, is the one that reports to the user."""
    return _from_environment("RANK", 0) == 0


def _from_environment(name: str, default: int | None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise UsageError(f"the environment variable {name} is {text!r}; expected a number: start with torchrun")
    return int(text)


def sum_over_ranks(values: Sequence[float], ranks: Ranks, device: torch.device) -> list[float]:
    """Sum each value over all processes; every process gets the result."""
    if ranks.world_size == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    dist.all_reduce(total)
    found: list[float] = total.tolist()
    return found


def sum_gradients(parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
    """Replace every gradient by its sum over all processes; a missing gradient counts as zero."""
    if ranks.world_size == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in parameters])
    dist.all_reduce(flat)
    parts = flat.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        _gradient(parameter).copy_(part.view_as(parameter))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def gathered(value: V, ranks: Ranks) -> list[V]:
    """Gather the values of all processes in rank order; every process gets the result."""
    if ranks.world_size == 1:
        return [value]
    values: list[V | None] = [None] * ranks.world_size
    dist.all_gather_object(values, value)
    return [one for one in values if one is not None]


def gathered_rows(own: Tensor, ranks: Ranks) -> tuple[Tensor, int]:
    """Gather rows `[n, ...]` of all processes, whose numbers may differ, without a graph.

    Returns:
        the rows of all processes in rank order, and the index of this process's first row.
    """
    if ranks.world_size == 1:
        return own, 0
    counts = gathered(len(own), ranks)
    padded = own.new_zeros((max(counts), *own.shape[1:]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    rows = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return rows, sum(counts[: ranks.rank])


def gathered_in_order(own: Sequence[tuple[int, V]], ranks: Ranks) -> list[V]:
    """Gather the numbered values of all processes in order of their numbers; every process gets the result."""
    everyones = [pair for part in gathered(own, ranks) for pair in part]
    return [value for _, value in sorted(everyones, key=lambda pair: pair[0])]


@contextlib.contextmanager
def first_before_others(ranks: Ranks) -> Iterator[None]:
    """Run the block in the first process, then in all others, so that they find what the first one created."""
    if not ranks.is_first:
        wait_for_first(ranks)
    yield
    if ranks.is_first:
        wait_for_first(ranks)


def wait_for_first(ranks: Ranks) -> None:
    """Barrier: afterwards, all processes can read what the first one wrote before it."""
    if ranks.world_size > 1:
        dist.barrier()
