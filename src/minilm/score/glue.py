"""GLUE scores: which metrics and labels a task has, and the metrics themselves.

In: the labels of B examples (numbers, or names to be parsed) and the predictions for them, in the same order.
Out: metrics under the names accuracy, f1, matthews_correlation, pearson and spearmanr, always times 100 as in the
papers (a Matthews correlation of 0.475 is 47.5), with the values that scikit-learn and scipy give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """What is scored in a task: the names of its labels by number (none: the label is a number), its metrics."""

    labels: tuple[str, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A parsed label: its number (any number where the task has no names), and whether it was given by name."""

    number: float
    named: bool


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
GLUE_TASKS: Mapping[str, GlueTask] = {
    "cola": GlueTask(labels=_BINARY, metrics=("matthews_correlation",)),
    "sst-2": GlueTask(labels=_BINARY, metrics=("accuracy",)),
    "mrpc": GlueTask(labels=_BINARY, metrics=("accuracy", "f1")),
    "sts-b": GlueTask(labels=(), metrics=("pearson", "spearmanr")),
    "qqp": GlueTask(labels=_BINARY, metrics=("accuracy", "f1")),
    "mnli": GlueTask(labels=("contradiction", "entailment", "neutral"), metrics=("accuracy",)),
    "qnli": GlueTask(labels=_ENTAILMENT, metrics=("accuracy",)),
    "rte": GlueTask(labels=_ENTAILMENT, metrics=("accuracy",)),
    "wnli": GlueTask(labels=_BINARY, metrics=("accuracy",)),
}
"""Labels in the order of the GLUE processors of transformers; the `glue` data set of the hub numbers MNLI otherwise."""


def glue_name(name: str) -> str:
    """Return the name that a task has here; `SST-2`, `sst2` and `sst-2` are one.

    Raises:
        UsageError: there is no such task.
    """
    known = {_squeezed(task): task for task in GLUE_TASKS}
    found = known.get(_squeezed(name))
    if found is None:
        close = get_close_matches(_squeezed(name), known, n=1)
        hint = f": did you mean {known[close[0]]!r}?" if close else f"; expected one of {', '.join(GLUE_TASKS)}"
        raise UsageError(f"unknown GLUE task {name!r}{hint}")
    return found


def glue_task(name: str) -> GlueTask:
    """Find a task by its name, however it is spelt.

    Raises:
        UsageError: there is no such task.
    """
    return GLUE_TASKS[glue_name(name)]


def _squeezed(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def parse_label(value: object, names: Sequence[str]) -> Label:
    """Read a label given by name or by number (also as text or as 1.0).

    Raises:
        ValueError: it is neither a name nor the number of one.
    """
    if isinstance(value, str) and value in names:
        return Label(number=names.index(value), named=not value.isdecimal())
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value
    if isinstance(number, (int, float)) and not isinstance(number, bool) and number in range(len(names)):
        return Label(number=int(number), named=False)
    known = dict.fromkeys([*names, *map(str, range(len(names)))])
    raise ValueError(f"found label {value!r:.60}, expected one of {', '.join(known)}")


def align(
    references: Mapping[str, Label], predictions: Mapping[str, Label], *, num_labels: int
) -> tuple[list[float], list[float]]:
    """Put the labels of both sides in the order of the references.

    A missing prediction becomes a wrong label: with two labels the other one, so that f1 and the Matthews
    correlation count it as wrong too.

    Args:
        references: labels by id.
        predictions: labels by id.
        num_labels: how many labels the task has; 0 when its labels are any numbers.

    Returns:
        the right labels and the predicted ones, [B] each.

    Raises:
        DataError: a number is missing: no wrong one could stand for it in a correlation.
    """
    missing = [key for key in references if key not in predictions]
    if missing and not num_labels:
        raise DataError(
            f"{len(missing):,} of {len(references):,} references have no prediction (first: {missing[0]!r}); "
            f"a correlation needs all of them"
        )
    right = {key: label.number for key, label in references.items()}
    given = {key: label.number for key, label in predictions.items()}
    return list(right.values()), [
        given[key] if key in given else (number + 1) % num_labels for key, number in right.items()
    ]


def compute_metrics(names: Sequence[str], labels: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Compute metrics by name, times 100.

    Args:
        names: of accuracy, f1 (of label 1, for two labels), matthews_correlation, pearson, spearmanr.
        labels: the right ones [B]; label numbers, or any numbers for the two correlations.
        predictions: [B].

    Returns:
        each metric under its name. When all labels or all predictions are equal, the Matthews correlation is 0 (as
        in scikit-learn) and the other two correlations are undefined: NaN. f1 without any 1 is 0.

    Raises:
        DataError: there is nothing to score, or the lengths differ.
    """
    if not labels or len(labels) != len(predictions):
        raise DataError(
            f"found {len(labels)} labels and {len(predictions)} predictions; expected at least one, and equally many"
        )
    right_B, found_B = np.array(labels, dtype=np.float64), np.array(predictions, dtype=np.float64)
    with np.errstate(all="ignore"):  # an undefined number is NaN, without a warning
        return {name: 100.0 * float(_METRICS[name](right_B, found_B)) for name in names}


def _accuracy(right_B: Floats, found_B: Floats) -> float:
    return float(np.mean(right_B == found_B))


def _f1(right_B: Floats, found_B: Floats) -> float:
    positives = int(np.sum(right_B == 1)) + int(np.sum(found_B == 1))
    return 2 * int(np.sum((right_B == 1) & (found_B == 1))) / positives if positives else 0.0


def _matthews(right_B: Floats, found_B: Floats) -> float:
    """The form for any number of labels (Gorodkin 2004), from the counts of each label on both sides."""
    if not (_varies(right_B) and _varies(found_B)):
        return 0.0
    names, places = np.unique(np.concatenate([right_B, found_B]), return_inverse=True)
    num_right, num_found = (
        np.bincount(side, minlength=len(names)).astype(np.float64) for side in np.split(places.reshape(-1), 2)
    )
    total, correct = float(len(right_B)), float(np.sum(right_B == found_B))
    spread = (total**2 - num_found @ num_found) * (total**2 - num_right @ num_right)
    return float((correct * total - num_right @ num_found) / np.sqrt(spread))


def _pearson(right_B: Floats, found_B: Floats) -> float:
    if not (_varies(right_B) and _varies(found_B)):
        return math.nan
    correlation = float(np.clip(_unit(right_B) @ _unit(found_B), -1.0, 1.0))
    return correlation if len(right_B) > 2 or math.isnan(correlation) else float(round(correlation))


def _spearman(right_B: Floats, found_B: Floats) -> float:
    if not (_varies(right_B) and _varies(found_B)):
        return math.nan
    return _pearson(_ranks(right_B), _ranks(found_B))


def _varies(values_B: Floats) -> bool:
    """Whether the values are finite and not all equal; else a correlation has no value."""
    return bool(np.isfinite(values_B).all() and values_B.min() != values_B.max())


def _unit(values_B: Floats) -> Floats:
    """Differences from the mean, scaled to length 1; large numbers are scaled before they are squared."""
    centred_B = values_B - values_B.mean()
    largest = np.abs(centred_B).max()
    return np.asarray(centred_B / (largest * np.linalg.norm(centred_B / largest)))


def _ranks(values_B: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values_B, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[places.reshape(-1)])


_METRICS: Mapping[str, Callable[[Floats, Floats], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearmanr": _spearman,
}
