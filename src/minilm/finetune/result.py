"""What a finished run is, and what several seeds of one setting amount to.

In: `result.json` of runs. Out: `RunResult`, and `SettingRuns` with mean and deviation over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from minilm.errors import DataError
from minilm.files.json import read_json, write_json
from minilm.train.best import comparable
from minilm.train.state import Identity, require_same

RESULT, ANALYSIS = "result.json", "analysis.json"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run: what it was, the held-out numbers of its best evaluation and where it lies."""

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

    @property
    def main(self) -> float:
        """The number that chooses between runs; NaN without held-out data."""
        return self.numbers.get(self.main_metric, math.nan)


@dataclass(frozen=True, kw_only=True)
class SettingRuns:
    """The runs of one setting, one per seed."""

    runs: Sequence[RunResult]

    @property
    def metric(self) -> str:
        """What is compared."""
        return self.runs[0].main_metric

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(run.main for run in self.runs)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for one, NaN where a number is."""
        numbers = [run.main for run in self.runs]
        if not all(map(math.isfinite, numbers)):
            return math.nan
        return statistics.stdev(numbers) if len(numbers) > 1 else 0.0

    @property
    def best(self) -> RunResult:
        """The run with the best number; the first of equals."""
        return max(self.runs, key=lambda run: comparable(run.main_metric, run.main))

    def describe(self) -> str:
        """The setting in words."""
        run = self.runs[0]
        return f"learning rate {run.learning_rate:g}, {round(run.epochs, 2):g} epochs, batch {run.batch_size}"


def best_point(points: Sequence[SettingRuns]) -> SettingRuns:
    """The setting with the best mean over its seeds, as papers report; the first of equals."""
    return max(points, key=lambda point: comparable(point.metric, point.mean))


def write_result(result: RunResult, identity: Identity) -> None:
    """Record that the run is finished, in its folder."""
    values = {**asdict(result), "folder": ".", "identity": dict(identity)}
    write_json(result.folder / RESULT, values)


def read_result(out: Path, identity: Identity) -> RunResult | None:
    """The result of the same run in `out`, if it came to its end.

    Raises:
        UsageError: the folder holds the result of another run; what differs is named.
        DataError: the record is damaged.
    """
    if not (out / RESULT).is_file():
        return None
    values = read_json(out / RESULT)
    try:
        require_same(cast("Identity", values.pop("identity")), identity, out / RESULT)
        return RunResult(**{**values, "folder": out})  # type: ignore[arg-type]
    except (KeyError, TypeError):
        raise DataError(
            f"{out / RESULT}: not the record of a run; remove it and start the same command again"
        ) from None
