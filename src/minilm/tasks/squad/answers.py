"""Extracts answers from start and end scores: n-best lists, the no-answer score, the answer text.

In: questions, their windows, start and end scores per token of each window. Out: one `Answer` per question, whose text
is a span of the context, or "" for no answer; the contents of the original's prediction files.

N tokens of one window, C of them from the context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError
from minilm.tasks.squad.characters import FindText, classic_text, exact_text
from minilm.tasks.squad.read import Question
from minilm.tasks.squad.settings import AnswerSettings
from minilm.tasks.squad.windows import Window
from minilm.text.tokenizer import Tokenizer

_Scored = tuple[Window, NDArray[np.float64]]  # a window and its scores [N, 2]
_Logits = tuple[float, float]  # of start and end
_Characters = tuple[int | None, int | None]  # span of the context
_NOWHERE: _Characters = (None, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanCandidate:
    """One entry of an n-best list; `start` and `end` are character offsets in the context, None for no answer."""

    text: str
    start: int | None
    end: int | None
    start_logit: float
    end_logit: float
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer to one question.

    Attributes:
        id: id of the question.
        text: the answer text; "" for no answer.
        start: offset of its first character in the context; None for no answer.
        end: offset past its last character.
        score: its probability among `nbest`.
        null_odds: no-answer score minus the score of the best answer; None if no answer is not an option.
        nbest: candidates, best first.
    """

    id: str
    text: str
    start: int | None
    end: int | None
    score: float
    null_odds: float | None
    nbest: tuple[SpanCandidate, ...]

    def __repr__(self) -> str:
        """The answer without its candidates."""
        where = "no answer" if self.start is None else f"{self.text!r} at {self.start}:{self.end}"
        return f"<Answer {where}, probability {self.score:.3f}>"

    def row(self) -> dict[str, object]:
        """The row of a predictions file; without `null_odds` if no answer is not an option."""
        row: dict[str, object] = {"id": self.id, "prediction": self.text, "score": round(self.score, 6)}
        if self.null_odds is not None:
            row["null_odds"] = self.null_odds
        return row | {"start": self.start, "end": self.end}


def best_answers(
    questions: Sequence[Question],
    windows: Sequence[Window],
    scores: Sequence[NDArray[np.float32]],
    tokenizer: Tokenizer,
    *,
    settings: AnswerSettings,
) -> list[Answer]:
    """Choose the answer of every question.

    Args:
        questions: the questions.
        windows: all windows of these questions, as `make_windows` returns them.
        scores: start and end scores of the tokens of each window, `[N, 2]`. Rows past the end of the window (padding)
            compete for the best starts and ends, as in the original, but never become answers.
        tokenizer: the tokenizer that produced the windows.
        settings: how to choose answers.

    Returns:
        One answer per question, in order.

    Raises:
        UsageError: scores and windows do not match, or `classic` is used with a tokenizer that is not WordPiece.
        DataError: a score is not finite.
    """
    if len(windows) != len(scores) or any(len(a.token_ids) > len(b) for a, b in zip(windows, scores, strict=False)):
        raise UsageError(
            f"found scores of {len(scores)} sequences for {len(windows)} windows; pass the scores of these windows"
        )
    of_question: dict[int, list[tuple[Window, NDArray[np.float32]]]] = {}
    for window, score in zip(windows, scores, strict=True):
        of_question.setdefault(window.question, []).append((window, score))
    if len(of_question) != len(questions):
        raise UsageError(
            f"found windows of {len(of_question)} questions, expected {len(questions)}; "
            "pass the result of make_windows for these questions"
        )
    find = classic_text(tokenizer) if settings.postprocess == "classic" else exact_text
    return [_answer(question, of_question[number], find, settings) for number, question in enumerate(questions)]


def official_files(answers: Sequence[Answer]) -> dict[str, dict[str, object]]:
    """Contents of the output files of the original run_squad, which indents them by four spaces.

    Returns:
        `predictions` (id to text), `nbest_predictions` (id to entries with text, probability, start_logit and
        end_logit) and, if "" may be an answer, `null_odds` (id to number), each in the order of the questions.
    """
    names = ("text", "probability", "start_logit", "end_logit")
    files: dict[str, dict[str, object]] = {
        "predictions": {answer.id: answer.text for answer in answers},
        "nbest_predictions": {
            answer.id: [{name: getattr(entry, name) for name in names} for entry in answer.nbest] for answer in answers
        },
    }
    if any(answer.null_odds is not None for answer in answers):
        files["null_odds"] = {answer.id: answer.null_odds for answer in answers}
    return files


# --- one question ----------------------------------------------------------------------------------


def _answer(
    question: Question,
    of_windows: Sequence[tuple[Window, NDArray[np.float32]]],
    find: FindText,
    settings: AnswerSettings,
) -> Answer:
    scored = [(window, score.astype(np.float64)) for window, score in of_windows]
    for window, score in scored:
        if not np.isfinite(score[: len(window.token_ids)]).all():
            raise DataError(f"{question.where}: the model returned a score that is not finite; its weights are damaged")
    null = min((_no_answer(score) for _, score in scored), key=sum) if settings.allow_no_answer else None
    nbest = _candidates(_nbest(question.context, scored, find, settings, null))
    best = next((entry for entry in nbest if entry.text), nbest[0])
    if null is None:
        chosen, odds = nbest[0], None
    else:
        odds = sum(null) - best.start_logit - best.end_logit if best.text else sum(null)
        chosen = next(entry for entry in nbest if not entry.text) if odds > settings.null_threshold else best
    return Answer(
        id=question.id,
        text=chosen.text,
        start=chosen.start,
        end=chosen.end,
        score=chosen.probability,
        null_odds=odds,
        nbest=tuple(nbest),
    )


def _nbest(
    context: str, scored: Sequence[_Scored], find: FindText, settings: AnswerSettings, null: _Logits | None
) -> dict[str, tuple[_Characters, _Logits]]:
    """The best texts, best first, each with its span and scores; includes no answer if that is allowed."""
    nbest: dict[str, tuple[_Characters, _Logits]] = {}
    for window, first, last, logits in _ranked(scored, settings, null):
        if len(nbest) >= settings.n_best:
            break
        if window is None:
            nbest[""] = _NOWHERE, logits
            continue
        text, start, end = find(context, window, first, last)
        if text and text not in nbest:
            nbest[text] = (start, end), logits
    if null is not None:
        nbest.setdefault("", (_NOWHERE, null))
    if settings.postprocess == "classic" and not any(nbest):
        return {"empty": (_NOWHERE, (0.0, 0.0)), **nbest}  # as the original
    return nbest or {"": (_NOWHERE, (0.0, 0.0))}


def _no_answer(score: NDArray[np.float64]) -> _Logits:
    return float(score[0, 0]), float(score[0, 1])


def _candidates(nbest: Mapping[str, tuple[_Characters, _Logits]]) -> list[SpanCandidate]:
    """Candidates with probabilities: the softmax of the summed start and end scores."""
    sums = [sum(logits) for _, logits in nbest.values()]
    powers = [math.exp(one - max(sums)) for one in sums]
    total = sum(powers)
    return [
        SpanCandidate(
            text=text,
            start=span[0],
            end=span[1],
            start_logit=logits[0],
            end_logit=logits[1],
            probability=power / total,
        )
        for (text, (span, logits)), power in zip(nbest.items(), powers, strict=True)
    ]


def _ranked(
    scored: Sequence[_Scored], settings: AnswerSettings, null: _Logits | None
) -> Iterator[tuple[Window | None, int, int, _Logits]]:
    """Window, first and last context token, and start and end scores of all valid spans, best first.

    Ties keep the order of windows, starts and ends; no answer (window None) comes last among ties.
    """
    found = [_valid_spans(window, score, settings) for window, score in scored]
    owners = np.repeat(np.arange(len(found)), [len(firsts) for firsts, _, _ in found]).tolist()
    firsts, lasts = (np.concatenate([spans[side] for spans in found]).tolist() for side in (0, 1))
    logits = np.concatenate([spans[2] for spans in found])
    if null is not None:
        logits = np.concatenate([logits, [null]])
    order = np.argsort(-(logits[:, 0] + logits[:, 1]), kind="stable")
    for number, start_logit, end_logit in zip(order.tolist(), *logits[order].T.tolist(), strict=True):
        if number == len(owners):
            yield None, 0, 0, (start_logit, end_logit)
        else:
            yield scored[owners[number]][0], firsts[number], lasts[number], (start_logit, end_logit)


def _valid_spans(
    window: Window, score: NDArray[np.float64], settings: AnswerSettings
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """First and last tokens (relative to the first context token) and scores `[n, 2]` of a window's spans."""
    tokens = len(window.max_context)
    starts, ends = (np.argsort(-score[:, side], kind="stable")[: settings.n_best] for side in (0, 1))
    starts, ends = starts - window.first, ends - window.first
    starts, ends = starts[(starts >= 0) & (starts < tokens)], ends[(ends >= 0) & (ends < tokens)]
    starts = starts[window.max_context[starts]]
    length = ends - starts[:, None] + 1
    rows, columns = np.nonzero((length > 0) & (length <= settings.max_answer_tokens))
    firsts, lasts = starts[rows], ends[columns]
    return firsts, lasts, np.stack([score[firsts + window.first, 0], score[lasts + window.first, 1]], axis=1)
