"""Precision, recall and F1 of each label and averaged, and the confusion matrix.

In: of B examples with C labels, the right label and the predicted one, or for sets of labels whether each one is right
and predicted. Out: numbers times 100, equal to those of scikit-learn; a share of nothing counts 0: the precision of a
label that is never predicted, the recall of one that no example has, the F1 of one that is neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

NO_PREDICTION = -1
"""In place of a predicted label: counts against accuracy and recall, not against the precision of any label."""
RATES = ("precision", "recall", "f1")
MAX_CONFUSION_LABELS = 40
"""A confusion matrix with more labels is unreadable as a table."""
AVERAGES = ("micro", "macro", "weighted")
POSITIVE = 1
"""Of two labels, the number of the one whose F1 is that of the classification."""


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """How many examples have each label, are predicted to have it, and both; `[C]` each."""

    references: Counts
    predictions: Counts
    both: Counts

    def rates(self) -> Floats:
        """Precision, recall and F1 of each label, `[C, 3]`."""
        return _rates(self.both, self.predictions, self.references)

    def averages(self) -> Mapping[str, Floats]:
        """Precision, recall and F1, `[3]`, by average.

        micro: of all decisions together; macro: the mean over the labels, each with the same weight; weighted: the mean
        with the number of references as weight.
        """
        rates_C3, total = self.rates(), self.references.sum()
        sums = (np.atleast_1d(counts.sum()) for counts in (self.both, self.predictions, self.references))
        return {
            "micro": _rates(*sums)[0],
            "macro": rates_C3.sum(0) / max(1, len(rates_C3)),
            "weighted": self.references @ rates_C3 / max(1, int(total)),
        }


def _rates(both: Counts, predictions: Counts, references: Counts) -> Floats:
    shares = [both / np.maximum(of, 1) for of in (predictions, references)]
    return 100 * np.stack([*shares, 2 * both / np.maximum(predictions + references, 1)], axis=-1)


def metric_names(num_labels: int) -> tuple[str, ...]:
    """The single numbers of a classification with one label per text, for `compute_metrics`; only two have an F1."""
    return ("accuracy", "matthews_correlation", *(("f1",) if num_labels == 2 else ()))


def counts_of_labels(references: Sequence[int], predictions: Sequence[int], num_labels: int) -> LabelCounts:
    """Count the labels of examples that have one each, `[B]`; a prediction may be `NO_PREDICTION`."""
    matrix = confusion_matrix(references, predictions, num_labels)
    own = matrix[:, :num_labels]
    return LabelCounts(references=matrix.sum(1), predictions=own.sum(0), both=own.diagonal())


def counts_of_sets(references_BC: Flags, predictions_BC: Flags) -> LabelCounts:
    """Count the labels of examples that have any number of them."""
    sides = (references_BC, predictions_BC, references_BC & predictions_BC)
    gold_C, found_C, both_C = (side.sum(0, dtype=np.int64) for side in sides)
    return LabelCounts(references=gold_C, predictions=found_C, both=both_C)


def confusion_matrix(references: Sequence[int], predictions: Sequence[int], num_labels: int) -> Counts:
    """Count the pairs of right label (row) and predicted label (column), `[C, C + 1]`.

    The last column counts `NO_PREDICTION`.
    """
    columns = num_labels + 1
    found_B = np.array(predictions, dtype=np.int64) % columns  # -1 is the last column
    cells_B = np.array(references, dtype=np.int64) * columns + found_B
    return np.bincount(cells_B, minlength=num_labels * columns).reshape(num_labels, columns).astype(np.int64)


def label_rows(names: Sequence[str], counts: LabelCounts) -> list[dict[str, object]]:
    """The table of a classification: a row for each label."""
    return [
        {"label": name, **_named(rates), "references": int(gold), "predictions": int(found)}
        for name, rates, gold, found in zip(names, counts.rates(), counts.references, counts.predictions, strict=True)
    ]


def average_rows(counts: LabelCounts) -> list[dict[str, object]]:
    """What follows the labels in that table: a row for each average."""
    sums = {"references": int(counts.references.sum()), "predictions": int(counts.predictions.sum())}
    return [{"label": f"{name} average", **_named(rates), **sums} for name, rates in counts.averages().items()]


def confusion_rows(names: Sequence[str], matrix: Counts) -> list[dict[str, object]]:
    """The confusion matrix as a table; with a column for missing predictions if there are any."""
    columns = [*names, "(no prediction)"][: len(names) + bool(matrix[:, -1].any())]
    return [
        {"reference \\ prediction": name, **{other: int(count) for other, count in zip(columns, row, strict=False)}}
        for name, row in zip(names, matrix, strict=True)
    ]


def average_metrics(counts: LabelCounts) -> dict[str, float]:
    """The averages by metric name: `micro_precision` to `weighted_f1`."""
    return {
        f"{average}_{rate}": float(value)
        for average, values in counts.averages().items()
        for rate, value in zip(RATES, values, strict=True)
    }


def _named(rates: Floats) -> dict[str, float]:
    return dict(zip(RATES, map(float, rates), strict=True))
