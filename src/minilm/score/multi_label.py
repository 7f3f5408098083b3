"""F1 of sets of labels.

In: for each of B examples whether each of C labels is right, and whether it was predicted. Out: micro and macro F1,
times 100, equal to those of scikit-learn; a label that neither side has counts 0 in the macro mean.
"""

from __future__ import annotations

from minilm.score.classification import Flags, average_metrics, counts_of_sets

METRICS = ("micro_f1", "macro_f1")


def multi_label_metrics(gold_BC: Flags, found_BC: Flags) -> dict[str, float]:
    """Micro F1 (over all decisions) and macro F1 (the mean over labels), `[B, C]` each, times 100."""
    numbers = average_metrics(counts_of_sets(gold_BC, found_BC))
    return {name: numbers[name] for name in METRICS}
