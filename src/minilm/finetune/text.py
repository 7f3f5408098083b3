"""The text task: classification and regression of texts and text pairs.

In: labeled rows of the training and held-out files. Out: a `Task` whose head reads the first token.

B sequences, T packed tokens, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from minilm.errors import DataError
from minilm.finetune.sequences import Array, Sequences, SequenceTask
from minilm.finetune.task import NUM_EXAMPLES, Analysis
from minilm.infer.predictions import Classified, classification_of, prediction_row
from minilm.model.metadata import HeadName
from minilm.model.packing import Packed
from minilm.score.classification import (
    MAX_CONFUSION_LABELS,
    POSITIVE,
    average_rows,
    confusion_matrix,
    confusion_rows,
    counts_of_labels,
    label_rows,
    metric_names,
)
from minilm.score.glue import compute_metrics
from minilm.tally import reporting_tally
from minilm.tasks.text.glue import COMBINED
from minilm.tasks.text.rows import TextRow, TextTask
from minilm.text.tokenizer import Tokenizer

_NUM_PROBABILITIES = 5  # shown of a wrong example


def selectable(task: TextTask) -> tuple[str, ...]:
    """Numbers that `task.metric` may name; `combined` is the mean of the two that GLUE has for a task."""
    combined = (COMBINED,) if len(task.metrics) == 2 else ()
    return (*_all_metrics(task), *combined)


def _all_metrics(task: TextTask) -> tuple[str, ...]:
    """The metrics of the task, and with one label per text those that `minilm score text` prints."""
    more = metric_names(len(task.labels)) if task.labels and not task.multi_label else ()
    return tuple(dict.fromkeys((*task.metrics, *more)))


class ClassificationTask(SequenceTask):
    """Classification with cross-entropy, or regression with squared error if the task has no labels."""

    head: HeadName = "classification"

    def __init__(
        self,
        spec: TextTask,
        train: Sequence[TextRow],
        dev: Mapping[str, Sequence[TextRow]],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
    ) -> None:
        """Tokenize all rows.

        Raises:
            DataError: a row of a pair task lacks its second text, or the training rows have a single label.
        """
        self._spec, self._rows = spec, {**dev}
        self.labels = spec.labels
        if not spec.multi_label:
            self.problem = "single_label_classification" if spec.labels else "regression"
        self.main_metric = spec.main
        self._tokenizer = tokenizer
        super().__init__(
            self._encoded(train, max_tokens),
            self._targets(train),
            {name: self._encoded(rows, max_tokens) for name, rows in dev.items()},
            max_tokens=max_tokens,
        )

    def _targets(self, train: Sequence[TextRow]) -> NDArray[np.generic]:
        """The label or number of each row, `[n]`."""
        targets = self._targets_of(train)
        if self.labels and len(set(targets.tolist())) < 2:
            raise DataError(
                f"all {len(targets)} training rows have the label {self.labels[int(train[0].label or 0)]!r}; "
                f"expected at least two labels (first row: {train[0].location})"
            )
        return targets

    def _targets_of(self, rows: Sequence[TextRow]) -> NDArray[np.generic]:
        return np.array([row.label for row in rows], dtype=np.int64 if self.labels else np.float32)

    def contents(self) -> dict[str, str]:
        """The number of rows of each set, and of each label among them."""
        found = {
            "training": np.asarray(self.targets),
            **{name: self._targets_of(rows) for name, rows in self._rows.items()},
        }
        return {name: f"{len(targets):,} rows{self._counted(targets)}" for name, targets in found.items()}

    def _counted(self, targets: NDArray[np.generic]) -> str:
        """How many of the targets have each label, or the range of numbers."""
        if not len(targets):
            return ""
        if not self.labels:
            return f", numbers from {targets.min():g} to {targets.max():g}"
        counts = targets.sum(0) if targets.ndim > 1 else np.bincount(targets, minlength=len(self.labels))
        shown = [f"{name} {int(count):,}" for name, count in zip(self.labels, counts, strict=True)]
        more = f" and {len(shown) - NUM_EXAMPLES} more labels" if len(shown) > NUM_EXAMPLES else ""
        return f": {', '.join(shown[:NUM_EXAMPLES])}{more}"

    def _encoded(self, rows: Sequence[TextRow], max_tokens: int) -> Sequences:
        texts = [row.text for row in rows]
        pairs = [row.text_pair or "" for row in rows] if self._spec.columns.text_pair is not None else None
        truncated: list[int] = []
        encoded = self._tokenizer.encode_pairs(texts, pairs, max_length=max_tokens, truncated=truncated)
        with reporting_tally() as tally:
            tally.add_truncated(truncated, [row.location for row in rows], max_tokens=max_tokens)
        return Sequences(token_ids=[ids for ids, _ in encoded], segment_ids=[segments for _, segments in encoded])

    def losses(self, scores: Tensor, packed: Packed, targets: Tensor) -> Tensor:
        """Cross-entropy or squared error of each text, `[B, C]` -> `[B]`."""
        if self.labels:
            return functional.cross_entropy(scores, targets, reduction="none")
        return functional.mse_loss(scores.squeeze(-1), targets, reduction="none")

    def outputs(self, scores: Tensor, packed: Packed) -> list[Array]:
        """The logits of each text, `[C]`."""
        return list(scores.cpu().numpy())

    def metrics(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """The task's metrics, times 100, and the held-out loss."""
        gold = self._gold(dev_set)
        logits_BC = np.stack(outputs).astype(np.float64)
        numbers = compute_metrics(_all_metrics(self._spec), gold, self._predicted(logits_BC))
        if self._spec.main == COMBINED:
            numbers[COMBINED] = float(np.mean([numbers[name] for name in self._spec.metrics]))
        return {**numbers, "heldout_loss": self._heldout_loss(logits_BC, gold)}

    def analyse(self, dev_set: str, outputs: Sequence[Array]) -> Analysis:
        """Numbers of each label, confusion matrix, incorrect examples (highest margin or error first), predictions."""
        rows, logits_BC = self._rows[dev_set], np.stack(outputs).astype(np.float64)
        predicted = self._predicted(logits_BC)
        found = [classification_of(scores_C, self.labels) for scores_C in outputs]
        order = np.argsort(-self._margins(logits_BC, dev_set), kind="stable")
        wrong = [index for index in order if self._is_wrong(rows[index], predicted[index])]
        return Analysis(
            tables=self._tables(rows, predicted),
            curves={},
            examples=[
                self._example(rows[index], self._name(predicted[index]), found[index]) for index in wrong[:NUM_EXAMPLES]
            ],
            predictions=[
                {"id": row.id, **prediction_row(one, self.labels)} for row, one in zip(rows, found, strict=True)
            ],
        )

    def _gold(self, dev_set: str) -> list[float]:
        return [float(row.label or 0) for row in self._rows[dev_set]]

    def _predicted(self, logits_BC: NDArray[np.float64]) -> list[float]:
        values = logits_BC.argmax(1) if self.labels else logits_BC[:, 0]
        return [float(value) for value in values]

    def _heldout_loss(self, logits_BC: NDArray[np.float64], gold: Sequence[float]) -> float:
        if not self.labels:
            return float(np.mean((logits_BC[:, 0] - np.array(gold)) ** 2))
        own = logits_BC[np.arange(len(gold)), np.array(gold, dtype=np.int64)]
        with np.errstate(invalid="ignore"):  # of a model that diverged
            return float(np.mean(np.logaddexp.reduce(logits_BC, axis=1) - own))

    def _margins(self, logits_BC: NDArray[np.float64], dev_set: str) -> NDArray[np.float64]:
        """Margin between the top two labels, or the absolute error of a regression."""
        if not self.labels:
            distances: NDArray[np.float64] = np.abs(logits_BC[:, 0] - np.array(self._gold(dev_set)))
            return distances
        ordered: NDArray[np.float64] = np.sort(logits_BC, axis=1)
        return ordered[:, -1] - ordered[:, -2]

    def _is_wrong(self, row: TextRow, predicted: float) -> bool:
        return not self.labels or row.label != int(predicted)

    def _name(self, value: float) -> str:
        return self.labels[int(value)] if self.labels else f"{value:.3f}"

    def _gold_names(self, row: TextRow) -> list[str]:
        return [self._name(float(row.label or 0))]

    def _tables(self, rows: Sequence[TextRow], predicted: Sequence[float]) -> dict[str, list[dict[str, object]]]:
        if not self.labels:
            return {}
        gold, found = [int(row.label or 0) for row in rows], [int(value) for value in predicted]
        counts = counts_of_labels(gold, found, len(self.labels))
        positive = f" (f1 of the results is that of {self.labels[POSITIVE]!r})" if len(self.labels) == 2 else ""
        tables = {f"Labels{positive}": [*label_rows(self.labels, counts), *average_rows(counts)]}
        if len(self.labels) <= MAX_CONFUSION_LABELS:
            matrix = confusion_matrix(gold, found, len(self.labels))
            tables["Confusion matrix"] = confusion_rows(self.labels, matrix)
        return tables

    def _example(self, row: TextRow, predicted: str, found: Classified) -> dict[str, str]:
        pair = {} if row.text_pair is None else {"second text": row.text_pair}
        gold = self._gold_names(row)
        shown = {"text": row.text, **pair, "gold": ", ".join(gold), "predicted": predicted}
        if self.labels:
            shown["probabilities"] = _most_probable(dict(zip(self.labels, found.probabilities, strict=True)), also=gold)
        return {**shown, "id": row.id}


def _most_probable(probabilities: Mapping[str, float], *, also: Sequence[str]) -> str:
    """The most probable labels and those in `also`, most probable first."""
    ordered = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
    shown = [name for rank, name in enumerate(ordered) if rank < _NUM_PROBABILITIES or name in also]
    return ", ".join(f"{name} {probabilities[name]:.3f}" for name in shown)
