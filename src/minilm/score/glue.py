"""GLUE scores: the labels and metrics of each task, and the metrics themselves.

In: the labels of B examples (numbers, or names to parse) and the predictions for them, in the same order.
Out: the metrics accuracy, f1, matthews_correlation, pearson and spearmanr, always times 100 as in the papers
(a Matthews correlation of 0.475 is 47.5), equal to those of scikit-learn and scipy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError
from minilm.score.matching import match_ids

Floats = NDArray[np.float64]

_UNNAMED = re.compile(r"label_([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """A task: its label names in index order (none for regression) and its metrics."""

    labels: tuple[str, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A parsed label: its index (any number for regression), and whether it was given by name."""

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
"""Labels in the order of the GLUE processors of transformers; the hub's `glue` dataset numbers MNLI differently."""


def glue_name(name: str) -> str:
    """Return the canonical name of a task; `SST-2`, `sst2` and `sst-2` are equivalent.

    Raises:
        UsageError: the task is unknown.
    """
    known = {_squeezed(task): task for task in GLUE_TASKS}
    found = known.get(_squeezed(name))
    if found is None:
        close = get_close_matches(_squeezed(name), known, n=1)
        hint = f": did you mean {known[close[0]]!r}?" if close else f"; expected one of {', '.join(GLUE_TASKS)}"
        raise UsageError(f"unknown GLUE task {name!r}{hint}")
    return found


def glue_task(name: str) -> GlueTask:
    """Look up a task by name, in any spelling that `glue_name` accepts.

    Raises:
        UsageError: the task is unknown.
    """
    return GLUE_TASKS[glue_name(name)]


def _squeezed(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def label_key(name: str) -> str:
    """A label in the form in which it is compared: without regard to case; `LABEL_1` of transformers is `1`."""
    folded = name.casefold()
    unnamed = _UNNAMED.fullmatch(folded)
    return str(int(unnamed[1])) if unnamed else folded


def matching_label(name: str, names: Sequence[str]) -> int | None:
    """The index in `names` of the label called `name`, exactly or else by its key; None if none or several match."""
    if name in names:
        return names.index(name)
    found = [index for index, known in enumerate(names) if label_key(known) == label_key(name)]
    return found[0] if len(found) == 1 else None


def parse_label(value: object, names: Sequence[str]) -> Label:
    """Parse a label given by name, without regard to case, or by index (also as text, as 1.0 or as LABEL_1).

    Raises:
        ValueError: the value is neither a label name nor a label index.
    """
    known_index = matching_label(value, names) if isinstance(value, str) else None
    if isinstance(value, str) and known_index is not None:
        return Label(number=known_index, named=not label_key(value).isdecimal())
    text = label_key(value) if isinstance(value, str) else ""
    number = int(text) if text.isascii() and text.isdecimal() else value
    if isinstance(number, (int, float)) and not isinstance(number, bool) and number in range(len(names)):
        return Label(number=int(number), named=False)
    known = dict.fromkeys([*names, *map(str, range(len(names)))])
    raise ValueError(f"found label {value!r:.60}, expected one of {', '.join(known)}")


def align(
    references: Mapping[str, Label], predictions: Mapping[str, Label], *, num_labels: int
) -> tuple[list[float], list[float]]:
    """Align the labels of both sides in the order of the references.

    A missing prediction becomes an incorrect label; of two labels, the other one, so that f1 and the Matthews
    correlation count it as incorrect too.

    Args:
        references: labels by id.
        predictions: labels by id.
        num_labels: number of labels of the task; 0 for regression.

    Returns:
        the gold labels and the predicted ones, [B] each.

    Raises:
        DataError: a prediction is missing in a regression task, where no value would count as incorrect.
    """
    if not num_labels:
        match_ids(references, predictions).require_all()
    gold = {key: label.number for key, label in references.items()}
    given = {key: label.number for key, label in predictions.items()}
    return list(gold.values()), [
        given[key] if key in given else (number + 1) % num_labels for key, number in gold.items()
    ]


def compute_metrics(names: Sequence[str], labels: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Compute metrics by name, times 100.

    Args:
        names: of accuracy, f1 (of label 1, for two labels), matthews_correlation, pearson, spearmanr.
        labels: gold labels [B]; label indices, or any numbers for pearson and spearmanr.
        predictions: [B].

    Returns:
        values by metric name. If all labels or all predictions are equal, the Matthews correlation is 0 (as in
        scikit-learn) and the other two correlations are undefined: NaN. f1 without any label 1 is 0.

    Raises:
        DataError: there is nothing to score, or the lengths differ.
    """
    if not labels or len(labels) != len(predictions):
        raise DataError(
            f"found {len(labels)} labels and {len(predictions)} predictions; expected equal counts, at least 1"
        )
    gold_B, found_B = np.array(labels, dtype=np.float64), np.array(predictions, dtype=np.float64)
    with np.errstate(all="ignore"):  # undefined values become NaN without a warning
        return {name: 100.0 * float(_METRICS[name](gold_B, found_B)) for name in names}


def _accuracy(gold_B: Floats, found_B: Floats) -> float:
    return float(np.mean(gold_B == found_B))


def _f1(gold_B: Floats, found_B: Floats) -> float:
    positives = int(np.sum(gold_B == 1)) + int(np.sum(found_B == 1))
    return 2 * int(np.sum((gold_B == 1) & (found_B == 1))) / positives if positives else 0.0


def _matthews(gold_B: Floats, found_B: Floats) -> float:
    """The multiclass form (Gorodkin 2004), from the counts of each label on both sides."""
    if not (_varies(gold_B) and _varies(found_B)):
        return 0.0
    names, codes = np.unique(np.concatenate([gold_B, found_B]), return_inverse=True)
    num_right, num_found = (
        np.bincount(side, minlength=len(names)).astype(np.float64) for side in np.split(codes.reshape(-1), 2)
    )
    total, correct = float(len(gold_B)), float(np.sum(gold_B == found_B))
    spread = (total**2 - num_found @ num_found) * (total**2 - num_right @ num_right)
    return float((correct * total - num_right @ num_found) / np.sqrt(spread))


def _pearson(gold_B: Floats, found_B: Floats) -> float:
    if not (_varies(gold_B) and _varies(found_B)):
        return math.nan
    correlation = float(np.clip(_unit(gold_B) @ _unit(found_B), -1.0, 1.0))
    return correlation if len(gold_B) > 2 or math.isnan(correlation) else float(round(correlation))


def _spearman(gold_B: Floats, found_B: Floats) -> float:
    if not (_varies(gold_B) and _varies(found_B)):
        return math.nan
    return _pearson(_ranks(gold_B), _ranks(found_B))


def _varies(values_B: Floats) -> bool:
    """Whether the values are finite and not all equal; otherwise a correlation is undefined."""
    return bool(np.isfinite(values_B).all() and values_B.min() != values_B.max())


def _unit(values_B: Floats) -> Floats:
    """Deviations from the mean, normalized to length 1; large values are scaled before squaring."""
    centred_B = values_B - values_B.mean()
    largest = np.abs(centred_B).max()
    return np.asarray(centred_B / (largest * np.linalg.norm(centred_B / largest)))


def _ranks(values_B: Floats) -> Floats:
    """Ranks from 1; ties get their mean rank."""
    _, codes, counts = np.unique(values_B, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[codes.reshape(-1)])


_METRICS: Mapping[str, Callable[[Floats, Floats], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearmanr": _spearman,
}
