"""One process per device, started by torchrun: who this process is, and sums over all of them.

In: the environment torchrun sets. Out: `Ranks`, and collectives that do nothing for a process alone.

A step's gradient is the sum over processes of what each computed for its share of the global batch; shares are
weighted by the objective, so the sum is the gradient of the global batch whatever the number of processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minilm.errors import UsageError

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among `world_size`; the first one writes files."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


ALONE = Ranks()


@contextlib.contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the processes torchrun started, for the length of the block; `ALONE` outside torchrun.

    NCCL on GPUs (process i of a machine takes GPU i), gloo on CPUs.

    Raises:
        UsageError: the environment is half set.
    """
    world_size = _from_environment("WORLD_SIZE", 1)
    if world_size == 1:
        yield ALONE
        return
    rank = _from_environment("RANK", None)
    if torch.cuda.is_available():
        torch.cuda.set_device(_from_environment("LOCAL_RANK", 0))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    root = logging.getLogger("minilm")
    level = root.level
    if rank:  # what all of them find the first one says
        root.setLevel(logging.ERROR)
    try:
        yield Ranks(rank=rank, world_size=world_size)
    finally:
        root.setLevel(level)
        dist.destroy_process_group()


def is_first_process() -> bool:
    """Whether this process, started by torchrun or not, is the one that talks to the user."""
    return _from_environment("RANK", 0) == 0


def _from_environment(name: str, default: int | None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise UsageError(f"the environment variable {name} is {text!r}; expected a number: start with torchrun")
    return int(text)


def sum_over_ranks(values: Sequence[float], ranks: Ranks, device: torch.device) -> list[float]:
    """The sum of each value over all processes; every process gets it."""
    if ranks.world_size == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    dist.all_reduce(total)
    return [float(value) for value in total]


def sum_gradients(parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
    """Replace every gradient by its sum over all processes; a missing one counts as zero."""
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
    """The values of all processes, in the order of their ranks; every process gets them."""
    if ranks.world_size == 1:
        return [value]
    values: list[V | None] = [None] * ranks.world_size
    dist.all_gather_object(values, value)
    return [one for one in values if one is not None]


def gathered_in_order(own: Sequence[tuple[int, V]], ranks: Ranks) -> list[V]:
    """The numbered values of all processes, in the order of their numbers; every process gets them."""
    everyones = [pair for part in gathered(own, ranks) for pair in part]
    return [value for _, value in sorted(everyones, key=lambda pair: pair[0])]


@contextlib.contextmanager
def first_before_others(ranks: Ranks) -> Iterator[None]:
    """Run the block in the first process, then in all others: what the first one makes is there for them."""
    if not ranks.is_first:
        wait_for_first(ranks)
    yield
    if ranks.is_first:
        wait_for_first(ranks)


def wait_for_first(ranks: Ranks) -> None:
    """Wait until all processes are here: what the first one wrote before is then there for all."""
    if ranks.world_size > 1:
        dist.barrier()
