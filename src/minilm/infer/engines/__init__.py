"""Engines: the back ends that run a model, in one table.

In: the name of an engine and a model folder. Out: an `Engine`; its dependencies are imported only if it is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from minilm.errors import UsageError
from minilm.infer.engines.protocol import Engine
from minilm.model.metadata import HeadName
from minilm.model.precision import Precision

Loader = Callable[[Path, HeadName | None, Precision], Engine]


def _torch(folder: Path, head: HeadName | None, precision: Precision) -> Engine:
    from minilm.infer.engines.torch import load_torch_engine

    return load_torch_engine(folder, head, precision)


ENGINES: Mapping[str, Loader] = {"torch": _torch}  # best first


def load_engine(name: str, folder: Path, *, head: HeadName | None, precision: Precision) -> Engine:
    """Load the model in `folder` with the engine `name`; `auto` is the best available.

    Raises:
        UsageError: there is no such engine.
        DataError: the files in the folder are inconsistent.
    """
    chosen = next(iter(ENGINES)) if name == "auto" else name
    if chosen not in ENGINES:
        raise UsageError(f"engine is {name!r}; expected {' or '.join(map(repr, ('auto', *ENGINES)))}")
    return ENGINES[chosen](folder, head, precision)
