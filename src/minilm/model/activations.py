"""Activations under the names of their classes in `torch.nn`, as in the files of sentence-transformers. Needs no torch.

In: a dotted path from a model folder. Out: one of the names that are computed here; the path of a name.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, cast, get_args

from minilm.errors import DataError

Activation = Literal["Identity", "Tanh", "ReLU", "Sigmoid", "SiLU", "GELU"]


def activation_at(
    path: object, *, key: str, file: Path, among: Collection[str] = get_args(Activation), remedy: str = ""
) -> Activation:
    """The activation of a path such as `torch.nn.modules.activation.Tanh`.

    Args:
        path: the value of `key`.
        key: for messages.
        file: for messages.
        among: the names that are allowed.
        remedy: the way out, for messages.

    Raises:
        DataError: it is not a class of `torch.nn`, or not among those allowed.
    """
    name = str(path).rpartition(".")[2]
    if not str(path).startswith("torch.nn.") or name not in among:
        expected = ", ".join(among)
        raise DataError(f"{file}: {key} is {path!r:.80}; expected one of torch.nn: {expected}{remedy}")
    return cast("Activation", name)


def activation_path(name: Activation) -> str:
    """The path of an activation as sentence-transformers writes it; other readers know no shorter one."""
    return f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"
