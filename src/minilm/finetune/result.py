"""Results of finished runs, and their aggregation over the seeds of one setting.

In: `result.json` of runs. Out: `RunResult`, and `SettingRuns` with mean and deviation over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from minilm.errors import DataError
from minilm.files.json import read_json, with_nulls, write_json
from minilm.train.best import comparable, is_loss
from minilm.train.metrics import restored
from minilm.train.state import Identity, require_same

RESULT, ANALYSIS = "result.json", "analysis.json"
_EQUAL, _EQUAL_SHARE = 0.1, 0.01
"""A smaller difference of percentages is called equal; of a loss, a smaller share of that of the base model."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run: its folder, its setting and the held-out metrics of its best evaluation.

    `references` are metrics to compare them with, by name: those of the `base` model, of the `start` of the run if that
    is a smaller one, and of a `teacher`.
    """

    folder: Path
    seed: int
    learning_rate: float
    epochs: float
    batch_size: int
    main_metric: str
    numbers: Mapping[str, float]
    best_step: int
    steps: int
    train_examples: int
    parameters: int
    seconds: float
    extended_at: Sequence[int] = ()
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def main(self) -> float:
        """The main metric; NaN without held-out data."""
        return self.numbers.get(self.main_metric, math.nan)


def verdict(result: RunResult) -> str:
    """Whether the run is better than its base model, and by how much; "" if either has no number."""
    metric, base = result.main_metric, result.references.get("base", {})
    if math.isnan(base.get(metric, math.nan)) or math.isnan(result.main):
        return ""
    before, after = base[metric], result.main
    difference = comparable(metric, after) - comparable(metric, before)
    digits, equal, within = ".2f", _EQUAL, f"{_EQUAL:g}"
    if is_loss(metric):
        digits, equal, within = ".4g", _EQUAL_SHARE * abs(before), f"{_EQUAL_SHARE:.0%}"
    compared = f"{'better' if difference > 0 else 'worse'} than the base model by {abs(difference):{digits}}"
    if abs(difference) < equal:
        compared = f"equal to the base model within {within}"
    numbers = [f"{name} {found[metric]:{digits}}" for name, found in result.references.items() if metric in found]
    return f"verdict: {compared} ({metric} {after:{digits}}, {', '.join(numbers)})"


@dataclass(frozen=True, kw_only=True)
class SettingRuns:
    """The runs of one setting, one per seed."""

    runs: Sequence[RunResult]

    @property
    def metric(self) -> str:
        """Name of the main metric."""
        return self.runs[0].main_metric

    @property
    def mean(self) -> float:
        """Mean of the main metric over the seeds."""
        return statistics.fmean(run.main for run in self.runs)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for a single seed, NaN if any value is not finite."""
        numbers = [run.main for run in self.runs]
        if not all(map(math.isfinite, numbers)):
            return math.nan
        return statistics.stdev(numbers) if len(numbers) > 1 else 0.0

    @property
    def best(self) -> RunResult:
        """The run with the best main metric; ties go to the first."""
        return max(self.runs, key=lambda run: comparable(run.main_metric, run.main))

    def describe(self) -> str:
        """The setting as readable text."""
        run = self.runs[0]
        return f"learning rate {run.learning_rate:g}, {round(run.epochs, 2):g} epochs, batch {run.batch_size}"


def best_point(points: Sequence[SettingRuns]) -> SettingRuns:
    """The setting with the best mean over its seeds, as papers report; ties go to the first."""
    return max(points, key=lambda point: comparable(point.metric, point.mean))


def write_result(result: RunResult, identity: Identity) -> None:
    """Write `result.json`, which marks the run as finished; a metric that is not finite is null."""
    metrics = with_nulls({"numbers": result.numbers, "references": result.references})
    write_json(result.folder / RESULT, {**asdict(result), **metrics, "folder": ".", "identity": dict(identity)})


def read_result(out: Path, identity: Identity, *, steps: int) -> RunResult | None:
    """The result of the same run in `out`; None if it has not finished, or is to be extended to `steps`.

    Raises:
        UsageError: the folder contains the result of a different run; the message names the difference.
        DataError: the record is damaged.
    """
    if not (out / RESULT).is_file():
        return None
    values = read_json(out / RESULT)
    try:
        saved, before = cast("Identity", values.pop("identity")), cast("int", values["steps"])
        require_same({**saved, "train.steps": max(before, steps)}, {**identity, "train.steps": steps}, out / RESULT)
        if before < steps:
            return None
        numbers = restored(values["numbers"])
        found = cast("Mapping[str, object]", values.get("references", {}))
        references = {name: restored(row) for name, row in found.items()}
        return RunResult(**{**values, "numbers": numbers, "references": references, "folder": out})  # type: ignore[arg-type]
    except (AttributeError, KeyError, TypeError):
        raise DataError(f"{out / RESULT}: not a valid run result; remove it and run the same command again") from None
