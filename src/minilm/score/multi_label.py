"""F1 and accuracy of sets of labels.

In: for each of B examples whether each of C labels is right, and whether it was predicted. Out: micro and macro F1
and accuracy, times 100, equal to those of scikit-learn; a label that neither side has counts 0 in the macro mean.
"""

from __future__ import annotations

from minilm.score.classification import Flags, average_metrics, counts_of_sets

METRICS = ("micro_f1", "macro_f1", "accuracy")


def multi_label_metrics(gold_BC: Flags, found_BC: Flags) -> dict[str, float]:
    """Micro F1 (over all decisions), macro F1 (the mean over labels) and the share of sets that are entirely right.

    `[B, C]` each, times 100.
    """
    accuracy = 100.0 * float((gold_BC == found_BC).all(1).mean())
    numbers = {**average_metrics(counts_of_sets(gold_BC, found_BC)), "accuracy": accuracy}
    return {name: numbers[name] for name in METRICS}
