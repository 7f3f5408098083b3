"""The SQuAD task: start and end scores of every token, answer extraction, official metrics.

In: questions of the training and held-out files. Out: a `Task` whose head produces two scores per token.

B sequences, T packed tokens, N tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minilm.finetune.sequences import Array, Sequences, SequenceTask
from minilm.finetune.task import NUM_EXAMPLES, POOLER, Analysis
from minilm.model.heads import Model
from minilm.model.metadata import HeadName
from minilm.model.packing import Packed, unpack_runs
from minilm.score.squad import SquadReference, per_question_scores, squad_metrics, threshold_curve
from minilm.tasks.squad.answers import Answer, best_answers
from minilm.tasks.squad.read import Question
from minilm.tasks.squad.settings import SquadSettings
from minilm.tasks.squad.windows import Window, label_windows, make_windows
from minilm.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class _DevSet:
    questions: Sequence[Question]
    windows: Sequence[Window]

    @property
    def references(self) -> list[SquadReference]:
        return [
            SquadReference(id=one.id, answers=tuple(answer.text for answer in one.answers)) for one in self.questions
        ]


class SpanTask(SequenceTask):
    """Extractive question answering; windows without an answer are trained to predict [CLS]."""

    head: HeadName = "span"
    labels: Sequence[str] = ()
    main_metric = "f1"
    unit = "windows"

    def __init__(
        self,
        train: Sequence[Question],
        dev: Mapping[str, Sequence[Question]],
        tokenizer: Tokenizer,
        *,
        settings: SquadSettings,
    ) -> None:
        """Split all questions into windows; `train` may be empty if the model is only evaluated.

        Raises:
            DataError: no training question is usable.
            UsageError: a window has no room for the context.
        """
        self._tokenizer, self._settings = tokenizer, settings
        labelled = label_windows(train, self._windows(train))
        self._dev = {name: _DevSet(questions=part, windows=self._windows(part)) for name, part in dev.items()}
        super().__init__(
            _sequences(labelled.windows),
            labelled.positions,
            {name: _sequences(part.windows) for name, part in self._dev.items()},
            max_tokens=settings.max_tokens,
        )

    def _windows(self, questions: Sequence[Question]) -> list[Window]:
        return make_windows(questions, self._tokenizer, self._settings)

    def parameters(self, model: Model) -> dict[str, nn.Parameter]:
        """All weights that the loss depends on."""
        return {name: weight for name, weight in super().parameters(model).items() if not name.startswith(POOLER)}

    def losses(self, scores: Tensor, packed: Packed, targets: Tensor) -> Tensor:
        """Mean of the start and end cross-entropies over the tokens of each window, `[T, 2]` -> `[B]`."""
        chosen_B2 = scores[packed.first_rows[:, None] + targets, torch.arange(2, device=scores.device)]
        return (log_sum_exp(scores, packed) - chosen_B2).mean(1)

    def outputs(self, scores: Tensor, packed: Packed) -> list[Array]:
        """Start and end scores of each window, `[N, 2]`."""
        return [part.numpy() for part in scores.cpu().split(list(packed.lengths))]

    def metrics(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """The official metrics; with unanswerable questions, also the best thresholds on the null odds."""
        return self.scores(dev_set, self.chosen(dev_set, outputs))

    def analyse(self, dev_set: str, outputs: Sequence[Array]) -> Analysis:
        """Metrics by answerability, threshold curve, incorrect answers, and all predictions."""
        part, chosen = self._dev[dev_set], self.chosen(dev_set, outputs)
        numbers = self.scores(dev_set, chosen)
        references = part.references
        curves = {}
        if self._settings.allow_no_answer:
            texts = {one.id: next((c.text for c in one.nbest if c.text), "") for one in chosen}
            points = threshold_curve(references, texts, _null_odds(chosen))
            curves["Exact match and F1 by no-answer threshold"] = {
                "exact": [(point.threshold, point.exact) for point in points],
                "f1": [(point.threshold, point.f1) for point in points],
            }
        return Analysis(
            tables={"Answerable and unanswerable questions": _split_rows(numbers)},
            curves=curves,
            examples=_wrong(part.questions, chosen, references),
            predictions=[answer.row() for answer in chosen],
        )

    def chosen(self, dev_set: str, outputs: Sequence[Array]) -> list[Answer]:
        """The answers to the questions of a held-out set, in order."""
        part = self._dev[dev_set]
        return best_answers(part.questions, part.windows, outputs, self._tokenizer, settings=self._settings)

    def scores(self, dev_set: str, chosen: Sequence[Answer]) -> dict[str, float]:
        """The official metrics of the chosen answers."""
        texts = {answer.id: answer.text for answer in chosen}
        odds = _null_odds(chosen) if self._settings.allow_no_answer else None
        return squad_metrics(self._dev[dev_set].references, texts, na_probs=odds, na_prob_threshold=np.inf)


def log_sum_exp(scores_TC: Tensor, packed: Packed) -> Tensor:
    """Log-sum-exp over the rows of each sequence, `[T, C]` -> `[B, C]`."""
    return torch.cat([scores_BNC.logsumexp(1) for scores_BNC in unpack_runs(scores_TC, packed)])


def _sequences(windows: Sequence[Window]) -> Sequences:
    return Sequences(
        token_ids=[window.token_ids for window in windows], segment_ids=[window.segment_ids for window in windows]
    )


def _null_odds(chosen: Sequence[Answer]) -> dict[str, float]:
    return {answer.id: answer.null_odds for answer in chosen if answer.null_odds is not None}


def _split_rows(numbers: Mapping[str, float]) -> list[Mapping[str, object]]:
    groups = {"all": "", "answerable": "HasAns_", "unanswerable": "NoAns_"}
    return [
        {
            "questions": name,
            "exact": numbers[f"{prefix}exact"],
            "f1": numbers[f"{prefix}f1"],
            "count": numbers[f"{prefix}total"],
        }
        for name, prefix in groups.items()
        if f"{prefix}exact" in numbers
    ]


def _wrong(
    questions: Sequence[Question], chosen: Sequence[Answer], references: Sequence[SquadReference]
) -> list[Mapping[str, str]]:
    """Incorrect answers, lowest F1 first."""
    scores = per_question_scores(references, {answer.id: answer.text for answer in chosen})
    pairs = sorted(zip(questions, chosen, strict=True), key=lambda pair: scores[pair[0].id].f1)
    return [
        {
            "question": question.question,
            "context": question.context,
            "gold": " / ".join(dict.fromkeys(gold.text for gold in question.answers)) or "(no answer)",
            "predicted": answer.text or "(no answer)",
            "id": question.id,
        }
        for question, answer in pairs[:NUM_EXAMPLES]
        if not scores[question.id].exact
    ]
