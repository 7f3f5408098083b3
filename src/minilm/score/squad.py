"""SQuAD scores, v1.1 and v2.0, equal to those of the official evaluate-v2.0.py.

In: references (an id and its gold answers; none means unanswerable), predicted texts by id ("" means no
answer), and optionally the model's no-answer scores (na_prob, on any increasing scale).
Out: percentages under the official names, the scores of each question, or a curve over the threshold.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from minilm.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class SquadReference:
    """A question: its id and its gold answers; none means that it is unanswerable."""

    id: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class QuestionScore:
    """Scores of one question, each from 0 to 1."""

    exact: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class ThresholdPoint:
    """The percentages if every question with a na_prob above `threshold` is left unanswered."""

    threshold: float
    exact: float
    f1: float


def normalize_answer(text: str) -> str:
    """Lowercase the text and remove ASCII punctuation, the articles a, an, the, and extra whitespace."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def per_question_scores(
    references: Sequence[SquadReference], predictions: Mapping[str, str]
) -> dict[str, QuestionScore]:
    """Score each question against the best of its gold answers.

    Gold answers that normalize to the empty text are ignored; if none remains, the correct answer is the empty text.

    Args:
        references: the questions.
        predictions: text by id; a question without a prediction scores 0, answerable or not.

    Returns:
        the scores by id, in the order of the references.
    """
    missing = QuestionScore(exact=0.0, f1=0.0)
    return {
        one.id: _best_match(one.answers, predictions[one.id]) if one.id in predictions else missing
        for one in references
    }


def _best_match(answers: Sequence[str], prediction: str) -> QuestionScore:
    golds = [gold for gold in map(normalize_answer, answers) if gold] or [""]
    found = normalize_answer(prediction)
    return QuestionScore(exact=float(found in golds), f1=max(_token_f1(gold.split(), found.split()) for gold in golds))


def _token_f1(gold: list[str], found: list[str]) -> float:
    """Harmonic mean of bag-of-words precision and recall."""
    if not gold or not found:
        return float(gold == found)
    shared = sum((Counter(gold) & Counter(found)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(gold)
    return (2 * precision * recall) / (precision + recall)


def squad_metrics(
    references: Sequence[SquadReference],
    predictions: Mapping[str, str],
    *,
    na_probs: Mapping[str, float] | None = None,
    na_prob_threshold: float = 1.0,
) -> dict[str, float]:
    """Compute the scores of the official script, under its names and in its order, as percentages.

    A prediction whose na_prob is above the threshold counts as "no answer". `best_*` require `na_probs`. They follow
    the official script: ties keep the order of `na_probs`, and any prediction other than "" is incorrect for an
    unanswerable question.

    Args:
        references: the questions, with unique ids.
        predictions: text by id. A question without a prediction counts as incorrect (the official script aborts).
        na_probs: by id; required for every question that has a prediction.
        na_prob_threshold: the official default is 1.0; for null odds, use a difference of logits, such as 0.

    Returns:
        `exact`, `f1`, `total`, then `HasAns_*` and `NoAns_*` if there are such questions, then `best_exact`,
        `best_exact_thresh`, `best_f1`, `best_f1_thresh`.

    Raises:
        DataError: there are no questions, or a predicted question has no na_prob.
    """
    raw = per_question_scores(references, predictions)
    answerable = {one.id: bool(one.answers) for one in references}
    scores = raw
    if na_probs is not None:
        _require_na_probs(raw, predictions, na_probs)
        scores = {
            key: _unanswered(answerable[key]) if key in predictions and na_probs[key] > na_prob_threshold else score
            for key, score in raw.items()
        }
    metrics = _percentages(scores.values())
    for prefix, wanted in (("HasAns", True), ("NoAns", False)):
        group = [score for key, score in scores.items() if answerable[key] is wanted]
        if group:
            metrics |= {f"{prefix}_{name}": value for name, value in _percentages(group).items()}
    if na_probs is not None:
        for name in ("exact", "f1"):
            values = {key: float(getattr(raw[key], name)) for key in raw if key in predictions}
            best, threshold = _best_threshold(values, answerable, predictions, na_probs)
            metrics |= {f"best_{name}": 100.0 * best / len(raw), f"best_{name}_thresh": threshold}
    return metrics


def threshold_curve(
    references: Sequence[SquadReference], predictions: Mapping[str, str], na_probs: Mapping[str, float]
) -> list[ThresholdPoint]:
    """Compute `exact` and `f1` at every distinct threshold.

    Each point equals `squad_metrics` with that threshold. (The official `best_*` can differ slightly: they may split
    ties, and they count "the" as an answer.)

    Args:
        references: the questions.
        predictions: text by id.
        na_probs: by id; required for every question that has a prediction.

    Returns:
        one point per distinct na_prob, ascending.

    Raises:
        DataError: there are no questions, or a predicted question has no na_prob.
    """
    scores = per_question_scores(references, predictions)
    _require_na_probs(scores, predictions, na_probs)
    empty = {one.id: float(not one.answers) for one in references if one.id in predictions}
    exact = f1 = sum(empty.values())
    points: dict[float, ThresholdPoint] = {}
    for key in sorted(empty, key=lambda key: na_probs[key]):
        exact += scores[key].exact - empty[key]
        f1 += scores[key].f1 - empty[key]
        points[na_probs[key]] = ThresholdPoint(
            threshold=na_probs[key], exact=100.0 * exact / len(scores), f1=100.0 * f1 / len(scores)
        )
    return list(points.values())


def _unanswered(answerable: bool) -> QuestionScore:
    return QuestionScore(exact=float(not answerable), f1=float(not answerable))


def _percentages(scores: Iterable[QuestionScore]) -> dict[str, float]:
    rows = list(scores)
    if not rows:
        raise DataError("there are no questions to score: the references are empty")
    return {
        "exact": 100.0 * _sum(row.exact for row in rows) / len(rows),
        "f1": 100.0 * _sum(row.f1 for row in rows) / len(rows),
        "total": len(rows),
    }


def _sum(values: Iterable[float]) -> float:
    """Add from left to right; since Python 3.12, `sum` rounds differently."""
    return reduce(add, values, 0.0)


def _best_threshold(
    scores: Mapping[str, float],
    answerable: Mapping[str, bool],
    predictions: Mapping[str, str],
    na_probs: Mapping[str, float],
) -> tuple[float, float]:
    """Return the highest sum of scores and the first na_prob that reaches it; 0.0 if leaving all unanswered is best."""
    current = best = float(sum(not answerable[key] for key in scores))
    threshold = 0.0
    for key in sorted(na_probs, key=lambda key: na_probs[key]):
        if key not in scores:
            continue
        current += scores[key] if answerable[key] else -float(bool(predictions[key]))
        if current > best:
            best, threshold = current, na_probs[key]
    return best, threshold


def _require_na_probs(ids: Iterable[str], predictions: Mapping[str, str], na_probs: Mapping[str, float]) -> None:
    missing = [key for key in ids if key in predictions and key not in na_probs]
    if missing:
        raise DataError(
            f"{len(missing):,} questions with a prediction have no na_prob (first: {missing[0]!r}); "
            f"provide na_prob for each, or score without na_probs"
        )
