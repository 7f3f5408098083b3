"""Modules with shapes alone, for weights that are about to be put in.

In: nothing; modules are made inside the context. Out: parameters on the meta device, never filled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside take no memory and no random numbers.

    Their initialisation is skipped too: on the meta device it would compute nothing, and the first call would load
    torch's compiler, two seconds long.
    """
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """`torch.nn.init` does nothing."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],  # torch's signature
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        keywords = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return keywords["tensor"]
        return func(*args, **keywords)
