"""Predictions of a model's head for one part of an input: labels of texts, answers to questions, tags of words.

In: a loaded model; texts, pairs, questions, lists of words. Out: one `Classified`, `Answer` or `Tagged` each, in order.

C labels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from minilm.errors import DataError, UsageError
from minilm.infer.batching import TEXTS_PER_CHUNK, chunked, in_order
from minilm.infer.engines.protocol import Float32s
from minilm.infer.sources import Part
from minilm.infer.vectors import ACTIVATIONS
from minilm.model.activations import Activation
from minilm.model.config import require_absolute
from minilm.model.metadata import HeadName
from minilm.model.packed_ids import Int32s
from minilm.tally import Tally
from minilm.tasks.squad.settings import AnswerSettings, SquadSettings

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel
    from minilm.tasks.squad.answers import Answer
    from minilm.tasks.squad.read import Question
    from minilm.tasks.squad.windows import Window
    from minilm.tasks.tokens.entities import Tagged

_FALLING: Collection[Activation] = ("SiLU", "GELU")  # for some scores below 0; the others never fall

_DOES: Mapping[HeadName, tuple[str, str]] = {
    "classification": ("classify texts", "a GLUE task or labeled texts"),
    "span": ("answer questions", "the task squad"),
    "mlm": ("generate text", "the task seq2seq"),
    "tokens": ("tag words", "the task tokens"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified:
    """The prediction of a classifier for one text.

    Attributes:
        label: the most probable label; "" for a regression model.
        score: its probability; the predicted number for a regression model, after the activation that the folder of a
            cross-encoder states.
        probabilities: of all labels, in order, which add up to 1 unless the model is multi-label; empty for a
            regression model.
        labels: of a multi-label model, those with a probability above 0.5, maybe none; else empty.
        multi_label: each label applies or not, independently of the others.
    """

    label: str
    score: float
    probabilities: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    multi_label: bool = False

    def __repr__(self) -> str:
        """The prediction without the probabilities of other labels; of a multi-label model, what applies."""
        if self.multi_label:
            return f"<Classified labels {list(self.labels)}, highest {self.label!r} with {self.score:.3f}>"
        what = f"{self.label!r}, probability {self.score:.3f}" if self.probabilities else f"{self.score:.4g}"
        return f"<Classified {what}>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One text of a ranking: its number among the texts that were ranked, its score, and the text."""

    index: int
    score: float
    text: str


def require_head(model: LoadedModel, head: HeadName) -> None:
    """Require that the model was trained with `head`.

    Raises:
        UsageError: the model has another head, or none.
    """
    if head == "mlm":
        require_absolute(model.config)
    if model.head != head:
        what, task = _DOES[head]
        found = "it has no trained head" if model.head is None else f"its {model.head} head can {_DOES[model.head][0]}"
        also = "; for vectors use encode, or minilm embed" if (model.head, head) == (None, "classification") else ""
        raise UsageError(f"{model.folder} cannot {what}: {found}; train a model with minilm finetune and {task}{also}")


def classify_part(
    model: LoadedModel, texts: Sequence[str], pairs: Sequence[str] | None, *, locations: Sequence[str], tally: Tally
) -> list[Classified]:
    """The label of each text or pair of texts; `tally` counts those that were truncated, with their `locations`."""
    scores = _head_scores(model, texts, pairs, locations=locations, tally=tally)
    multi_label = is_multi_label(model)
    return [
        classification_of(row, model.labels, multi_label=multi_label, activation=model.activation) for row in scores
    ]


def scores_of(
    model: LoadedModel, pairs: Iterable[tuple[Sequence[str], str]], *, raw_scores: bool, tally: Tally
) -> Float32s:
    """The score of each pair of a query and a text, which comes with its location, `[B]`; as for `score_part`."""
    found = [np.empty(0, dtype=np.float32)]
    for chunk in chunked(pairs, TEXTS_PER_CHUNK):
        queries, texts = ([pair[side] for pair, _ in chunk] for side in (0, 1))
        locations = [location for _, location in chunk]
        found.append(score_part(model, queries, texts, raw_scores=raw_scores, locations=locations, tally=tally))
    return np.concatenate(found)


def score_part(
    model: LoadedModel,
    queries: Sequence[str],
    texts: Sequence[str],
    *,
    raw_scores: bool,
    locations: Sequence[str],
    tally: Tally,
) -> Float32s:
    """The score of each pair, `[B]`, `raw_scores` before the activation of the folder; `tally` as for `classify_part`.

    Raises:
        DataError: a score is not finite.
    """
    scores_B1 = np.stack(_head_scores(model, queries, texts, locations=locations, tally=tally))
    scores = ACTIVATIONS["Identity" if raw_scores else model.activation](scores_B1)[:, 0]
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"{locations[bad[0]]}: its score is not finite; the weights of {model.folder} are damaged, or too large "
            "for this precision"
        )
    return scores


def ranking_scores(raw_B: Float32s, activation: Activation) -> Float32s:
    """What texts are ranked by: the scores before an activation that never falls, else those after it.

    One that never falls keeps their order or makes them equal: a sigmoid of float32 is 1 from 17 on.
    """
    return ACTIVATIONS[activation](raw_B) if activation in _FALLING else raw_B


def shown_scores(ranking_B: Float32s, activation: Activation) -> Float32s:
    """The scores after the activation, from those that `ranking_scores` gives."""
    return ranking_B if activation in _FALLING else ACTIVATIONS[activation](ranking_B)


def require_one_score(model: LoadedModel) -> None:
    """Require a model with one score for a pair, such as a reranker; raises UsageError for any other."""
    if model.head != "classification" or model.problem != "regression":
        labels = f"{len(model.labels)} labels" if model.head == "classification" else "no score for a pair of texts"
        raise UsageError(
            f"{model.folder} has {labels}, expected a model with one score; train one with minilm finetune and the "
            "task rerank"
        )


def _head_scores(
    model: LoadedModel, texts: Sequence[str], pairs: Sequence[str] | None, *, locations: Sequence[str], tally: Tally
) -> list[Float32s]:
    """The scores of the head for each text or pair, `[C]` each."""
    truncated: list[int] = []
    rows = model.tokenizer.encode_pairs(texts, pairs, max_length=model.max_tokens, truncated=truncated)
    tally.add_truncated(truncated, locations, max_tokens=model.max_tokens)
    token_ids, segment_ids = [ids for ids, _ in rows], [segments for _, segments in rows]
    return in_order(token_ids, segment_ids, model.engine.classify, tokens_per_batch=model.engine.tokens_per_batch)


def is_multi_label(model: LoadedModel) -> bool:
    """Whether each label of a classifier applies or not, independently of the others."""
    return model.problem == "multi_label_classification"


def answer_part(
    model: LoadedModel, questions: Sequence[Question], *, settings: AnswerSettings | None, tally: Tally
) -> list[Answer]:
    """The answer to each question; `settings` replace those of training, `tally` counts what was truncated."""
    from minilm.tasks.squad.answers import best_answers  # here and below: models that only encode start sooner

    parts = windows_of(model, questions, tally)
    token_ids, segment_ids = [part.token_ids for part in parts], [part.segment_ids for part in parts]
    scores = _scores_of_tokens(model, token_ids, segment_ids)
    settings = settings or model.task_or(AnswerSettings())
    return best_answers(questions, parts, scores, model.tokenizer, settings=settings)


def windows_of(model: LoadedModel, questions: Sequence[Question], tally: Tally) -> list[Window]:
    """The windows of questions with the sizes of training; `tally` counts what was truncated."""
    from minilm.tasks.squad.windows import make_windows

    trained = model.task_or(SquadSettings(name="squad"))
    sizes = replace(trained, max_tokens=min(trained.max_tokens, model.config.max_tokens))
    return make_windows(questions, model.tokenizer, sizes, tally=tally)


def tag_part(model: LoadedModel, items: Sequence[Part], *, locations: Sequence[str], tally: Tally) -> list[Tagged]:
    """The tags and entities of each text or list of words; `tally` counts the words that the model does not read."""
    from minilm.tasks.tokens.entities import tag_words
    from minilm.tasks.tokens.words import WordFramer

    framer = WordFramer(tokenizer=model.tokenizer, max_tokens=model.max_tokens, tally=tally)
    framed = framer.parts(items, locations)
    token_ids = [one.token_ids for one in framed]
    scores = _scores_of_tokens(model, token_ids, None)
    return [tag_words(one, logits_NC, model.labels) for one, logits_NC in zip(framed, scores, strict=True)]


def _scores_of_tokens(
    model: LoadedModel, token_ids: Sequence[Int32s], segment_ids: Sequence[Int32s] | None
) -> list[Float32s]:
    """The scores of each sequence, `[N, C]`."""
    engine = model.engine
    return in_order(
        token_ids,
        segment_ids,
        lambda batch: batch.split(engine.tokens(batch)),
        tokens_per_batch=engine.tokens_per_batch,
    )


def classification_of(
    scores_C: Float32s, labels: Sequence[str], *, multi_label: bool = False, activation: Activation = "Identity"
) -> Classified:
    """The prediction from the scores of the head: softmax over labels, a sigmoid of each, or a number.

    Args:
        scores_C: the scores.
        labels: the labels; none for a number.
        multi_label: each label applies or not.
        activation: is applied to the number.
    """
    if not labels:
        return Classified(label="", score=float(ACTIVATIONS[activation](scores_C)[0]))
    scores_C64 = scores_C.astype(np.float64)
    logs_C = -np.logaddexp(0, -scores_C64) if multi_label else scores_C64 - np.logaddexp.reduce(scores_C64)
    best = int(np.argmax(scores_C))
    probabilities = tuple(np.exp(logs_C).tolist())
    return Classified(
        label=labels[best],
        score=probabilities[best],
        probabilities=probabilities,
        labels=tuple(name for name, score in zip(labels, scores_C, strict=True) if score > 0) if multi_label else (),
        multi_label=multi_label,
    )


def prediction_row(one: Classified, labels: Sequence[str]) -> dict[str, object]:
    """What is written about a text: its label with the probabilities of all, all that apply, or only the number."""
    if not labels:
        return {"prediction": one.score}
    scores = {name: round(score, 6) for name, score in zip(labels, one.probabilities, strict=True)}
    if one.multi_label:
        return {"prediction": list(one.labels), "scores": scores}
    return {"prediction": one.label, "score": round(one.score, 6), "scores": scores}
