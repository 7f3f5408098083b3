"""F1 of sets of labels.

In: for each of B examples whether each of C labels is right, and whether it was predicted. Out: micro and macro F1,
times 100, equal to those of scikit-learn; a label that neither side has counts 0 in the macro mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

METRICS = ("micro_f1", "macro_f1")


def multi_label_metrics(gold_BC: NDArray[np.bool_], found_BC: NDArray[np.bool_]) -> dict[str, float]:
    """Micro F1 (over all decisions) and macro F1 (the mean over labels), `[B, C]` each, times 100."""
    right_C = (gold_BC & found_BC).sum(0)
    counted_C = gold_BC.sum(0) + found_BC.sum(0)
    micro = 2 * float(right_C.sum()) / max(1, int(counted_C.sum()))
    return {"micro_f1": 100 * micro, "macro_f1": 100 * float(np.mean(2 * right_C / np.maximum(counted_C, 1)))}
