"""The multi-label text task: every label applies to a text or not.

In: rows with any number of labels. Out: a `Task` whose loss is the mean over labels of the binary cross-entropy, as in
transformers.

B sequences, T packed tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from minilm.errors import DataError
from minilm.finetune.sequences import Array
from minilm.finetune.task import NUM_EXAMPLES, Analysis
from minilm.finetune.text import ClassificationTask
from minilm.infer.predictions import classification_of, prediction_row
from minilm.model.metadata import ProblemType
from minilm.model.packing import Packed
from minilm.score.classification import average_rows, counts_of_sets, label_rows
from minilm.score.multi_label import multi_label_metrics
from minilm.tasks.text.rows import TextRow


class MultiLabelTask(ClassificationTask):
    """Multi-label classification; a label with a probability above 0.5 is predicted."""

    problem: ProblemType | None = "multi_label_classification"

    def _targets(self, train: Sequence[TextRow]) -> NDArray[np.generic]:
        """0 or 1 for each label of each row, `[n, C]` float32."""
        targets_BC = self._targets_of(train)
        if not targets_BC.any():
            raise DataError(f"none of the {len(train)} training rows has a label (first row: {train[0].location})")
        return targets_BC

    def _targets_of(self, rows: Sequence[TextRow]) -> NDArray[np.generic]:
        return self._flags(rows).astype(np.float32)

    def _flags(self, rows: Sequence[TextRow]) -> NDArray[np.bool_]:
        flags_BC = np.zeros((len(rows), len(self.labels)), dtype=np.bool_)
        for index, row in enumerate(rows):
            flags_BC[index, list(row.labels)] = True
        return flags_BC

    def losses(self, scores: Tensor, packed: Packed, targets: Tensor) -> Tensor:
        """Binary cross-entropy of each text, the mean over labels, `[B, C]` -> `[B]`."""
        return functional.binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(-1)

    def metrics(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """Micro and macro F1, times 100, and the held-out loss."""
        logits_BC, gold_BC = np.stack(outputs).astype(np.float64), self._flags(self._rows[dev_set])
        losses_BC = np.logaddexp(0, np.where(gold_BC, -logits_BC, logits_BC))
        return {**multi_label_metrics(gold_BC, logits_BC > 0), "heldout_loss": float(losses_BC.mean())}

    def analyse(self, dev_set: str, outputs: Sequence[Array]) -> Analysis:
        """Numbers of each label, incorrect examples (most incorrect labels first), all predictions."""
        rows, found_BC = self._rows[dev_set], np.stack(outputs) > 0
        gold_BC = self._flags(rows)
        found = [classification_of(scores_C, self.labels, multi_label=True) for scores_C in outputs]
        mistakes_B = (gold_BC != found_BC).sum(1)
        order = [index for index in np.argsort(-mistakes_B, kind="stable") if mistakes_B[index]]
        counts = counts_of_sets(gold_BC, found_BC)
        return Analysis(
            tables={"Labels": [*label_rows(self.labels, counts), *average_rows(counts)]},
            curves={},
            examples=[
                self._example(rows[index], ", ".join(found[index].labels), found[index])
                for index in order[:NUM_EXAMPLES]
            ],
            predictions=[
                {"id": row.id, **prediction_row(one, self.labels)} for row, one in zip(rows, found, strict=True)
            ],
        )

    def _gold_names(self, row: TextRow) -> list[str]:
        return [self.labels[index] for index in row.labels]
