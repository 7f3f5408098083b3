"""Engines: the back ends that run a model, in one table.

In: the name of an engine and a model folder. Out: an `Engine`; its dependencies are imported only if it is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from minilm.errors import UsageError
from minilm.infer.engine_names import EngineName
from minilm.infer.engines.protocol import CannotRun, Engine
from minilm.infer.engines.threads import require_threads
from minilm.model.metadata import HeadName
from minilm.model.precision import Precision, has_bf16

logger = logging.getLogger(__name__)

Loader = Callable[[Path, HeadName | None, Precision, int | None], Engine]


def _native(folder: Path, head: HeadName | None, precision: Precision, threads: int | None) -> Engine:
    from minilm.infer.engines.native import load_native_engine

    return load_native_engine(folder, head, precision, threads)


def _torch(folder: Path, head: HeadName | None, precision: Precision, threads: int | None) -> Engine:
    from minilm.infer.engines.torch import load_torch_engine

    return load_torch_engine(folder, head, precision, threads)


ENGINES: Mapping[EngineName, Loader] = {"native": _native, "torch": _torch}
"""Best first; the last one runs every model."""


def load_engine(
    name: EngineName, folder: Path, *, head: HeadName | None, precision: Precision, threads: int | None = None
) -> Engine:
    """Load the model in `folder` with the engine `name`; `auto` is the best that can run it.

    Raises:
        UsageError: there is no such engine, or it cannot run this model.
        DataError: the files in the folder are inconsistent.
    """
    if name not in get_args(EngineName):
        raise UsageError(f"engine is {name!r}; expected {', '.join(map(repr, get_args(EngineName)))}")
    require_threads(threads)
    names: list[EngineName] = list(ENGINES) if name == "auto" else [name]
    if name == "auto" and precision == "int8":
        names = ["native"]  # the only one that computes it
    for one in names[:-1]:
        try:
            return ENGINES[one](folder, head, precision, threads)
        except CannotRun as reason:
            if precision == "bf16" and not has_bf16():  # torch would emulate it, which is slow
                raise UsageError("precision is 'bf16', which this processor does not have; use 'fp32'") from None
            logger.info("engine %s cannot run %s: %s; %s runs it", one, folder, reason, names[-1])
    try:
        return ENGINES[names[-1]](folder, head, precision, threads)
    except CannotRun as reason:
        raise UsageError(f"engine {names[-1]!r} cannot run {folder}: {reason}{_way_out(name, precision)}") from reason


def _way_out(name: EngineName, precision: Precision) -> str:
    """What to load a model with that the engine `name` cannot run in `precision`; it must work where this is read."""
    if precision == "int8" and name != "native":
        return "; load it with " + ("engine='native'" if name == "torch" else "precision='fp32'")
    if precision == "int8" or (precision == "bf16" and not has_bf16()):  # `auto` would reject it too
        return "; load it with engine='auto' and precision='fp32'"
    return "" if name == "auto" else "; load it with engine='auto'"
