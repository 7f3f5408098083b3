"""Create modules without weights, before weights are loaded into them.

In: nothing; modules are created inside the context. Out: parameters on the meta device, without values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules created inside allocate no memory and consume no random numbers.

    Initialization is skipped too: on the meta device it would compute nothing, and the first call would import
    torch's compiler, which takes two seconds.
    """
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Turns the functions of `torch.nn.init` into no-ops."""

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
