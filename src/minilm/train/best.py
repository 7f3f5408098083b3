"""Track the best weights of a run by a held-out metric, and stop early without improvement.

In: the metrics of each evaluation. Out: `best/` in the run folder with `model.safetensors` and `best.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from minilm.errors import DataError
from minilm.files.atomic import atomic_folder
from minilm.files.json import read_json, with_nulls, write_json
from minilm.files.tensors import read_safetensors, write_safetensors
from minilm.train.metrics import restored

_FOLDER, _RECORD, _WEIGHTS = "best", "best.json", "model.safetensors"


def comparable(metric: str, value: float) -> float:
    """Map a metric to a value where higher is better: losses and divergences are negated, NaN is never better."""
    if math.isnan(value):
        return -math.inf
    return -value if is_loss(metric) else value


def is_loss(metric: str) -> bool:
    """Whether a metric is a loss or divergence, where lower is better; the others are percentages."""
    return metric.rpartition(".")[2].endswith(("loss", "kl"))


@dataclass(frozen=True, kw_only=True)
class BestRule:
    """Keep the weights with the best `metric`; stop after `patience` evaluations without improvement (0: never)."""

    metric: str
    patience: int


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best value so far (mapped by `comparable`), its step, and the number of evaluations since."""

    value: float = -math.inf
    step: int = -1
    stale: int = 0

    def after(self, value: float, step: int) -> Best:
        """The state after one more evaluation; NaN is never better."""
        if value > self.value:
            return Best(value=value, step=step)
        return replace(self, stale=self.stale + 1)

    def stored(self) -> dict[str, object]:
        """JSON-compatible values; the inverse of `restore`."""
        return with_nulls(asdict(self))

    @classmethod
    def restore(cls, values: Mapping[str, float | None]) -> Best:
        """The inverse of `stored`; null stands for -inf, which JSON lacks."""
        value = values["value"]
        return cls(
            value=-math.inf if value is None else value,
            step=int(values["step"] or 0) if value is not None else -1,
            stale=int(values["stale"] or 0),
        )


def save_best(folder: Path, weights: Mapping[str, Tensor], numbers: Mapping[str, float], *, step: int) -> None:
    """Atomically replace the best weights of the run in `folder`."""
    with atomic_folder(folder / _FOLDER, replace=True) as aside:
        write_safetensors(aside / _WEIGHTS, weights)
        write_json(aside / _RECORD, {"step": step, "numbers": with_nulls(numbers)})


def load_best(folder: Path) -> tuple[int, dict[str, float], dict[str, Tensor]] | None:
    """Step, held-out metrics and weights of the best evaluation; None if no evaluation gave a number.

    Raises:
        DataError: the files are damaged.
    """
    if not (folder / _FOLDER).is_dir():
        return None
    record = read_json(folder / _FOLDER / _RECORD)
    step = record.get("step")
    if not isinstance(step, int):
        raise DataError(f"{folder / _FOLDER / _RECORD}: step is {step!r}; expected an integer: remove the folder")
    return step, restored(record.get("numbers")), read_safetensors(folder / _FOLDER / _WEIGHTS)
