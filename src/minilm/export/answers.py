"""What a model says about texts, in a form in which two engines can be compared.

In: a loaded model and texts. Out: their tokens as its task reads them; vectors, or labels and probabilities.

B texts, N tokens of one sequence, E width of a vector, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minilm.infer.api import LoadedModel
from minilm.infer.batching import in_order
from minilm.infer.predictions import classification_of, is_multi_label, windows_of
from minilm.infer.vectors import embed_part
from minilm.model.metadata import is_cross_encoder
from minilm.model.packed_ids import Int32s, PackedIds
from minilm.tally import Tally
from minilm.tasks.rerank.settings import RerankSettings
from minilm.tasks.squad.read import Question
from minilm.tasks.text.glue import text_columns
from minilm.tasks.text.settings import TextSettings
from minilm.tasks.tokens.words import NO_TOKEN, WordFramer

_QUESTION_WORDS = 8  # of a text, as the question about it


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Texts as the model reads them.

    Attributes:
        texts: the texts.
        token_ids: of each sequence, `[N]`; of long texts about which questions are asked there are several.
        segment_ids: the same, or None.
        words: of a model that tags words, the first token of each word.
    """

    texts: Sequence[str]
    token_ids: Sequence[Int32s]
    segment_ids: Sequence[Int32s] | None = None
    words: Sequence[Int32s] = ()

    def first(self, most_tokens: int) -> Inputs:
        """The first sequences, at least one, with at most that many tokens in all."""
        ends = np.cumsum([len(ids) for ids in self.token_ids])
        count = max(1, int(np.searchsorted(ends, most_tokens, side="right")))
        segments = None if self.segment_ids is None else self.segment_ids[:count]
        return Inputs(texts=(), token_ids=self.token_ids[:count], segment_ids=segments)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(ids) for ids in self.token_ids)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model says.

    Attributes:
        vectors: `[B, E]` of a model without a head, else None.
        labels: the choices of a head, each an index; None of a model with one score.
        numbers: the probabilities behind them, or the scores before an activation: a sigmoid would hide how far those
            of different texts are apart.
    """

    vectors: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    numbers: NDArray[np.float64]

    def distance(self, other: Answers) -> float:
        """How far another engine is: 1 - the mean cosine, or the mean difference of the numbers."""
        if self.vectors is not None and other.vectors is not None:
            return float(1 - cosines(self.vectors, other.vectors).mean())
        return float(np.abs(self.numbers - other.numbers).mean())


def cosines(found_BE: NDArray[np.float32], expected_BE: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of each pair of rows, `[B]`."""
    values: NDArray[np.float64] = (unit(found_BE) * unit(expected_BE)).sum(1)
    return values


def unit(vectors_BE: NDArray[np.float32]) -> NDArray[np.float64]:
    """The vectors with length 1, in float64."""
    wide_BE = vectors_BE.astype(np.float64)
    scaled: NDArray[np.float64] = wide_BE / np.linalg.norm(wide_BE, axis=1, keepdims=True)
    return scaled


def inputs_of(model: LoadedModel, texts: Sequence[str], tally: Tally) -> Inputs:
    """The tokens of texts as the model's task reads them; `tally` counts what is truncated.

    A classifier of pairs, a reranker and any other cross-encoder read each text with the next one. A model that answers
    questions is asked about each text with its first words.
    """
    locations, truncated = [f"text {number}" for number in range(len(texts))], list[int]()
    if model.head is None:
        whole = [model.embedding.prompt_of(prompt=None, role=None) + text for text in texts]
        limit = model.embedding.max_tokens
        ids = model.embedding_tokenizer.encode(whole, max_length=limit, truncated=truncated)
        tally.add_truncated(truncated, locations, max_tokens=limit)
        return Inputs(texts=texts, token_ids=ids)
    if model.head == "classification":
        pairs = [*texts[1:], *texts[:1]] if _reads_pairs(model) else None
        rows = model.tokenizer.encode_pairs(texts, pairs, max_length=model.max_tokens, truncated=truncated)
        tally.add_truncated(truncated, locations, max_tokens=model.max_tokens)
        return Inputs(texts=texts, token_ids=[one[0] for one in rows], segment_ids=[one[1] for one in rows])
    if model.head == "tokens":
        framer = WordFramer(tokenizer=model.tokenizer, max_tokens=model.max_tokens, tally=tally)
        framed = framer.parts(texts, locations)
        words = [one.first[one.first != NO_TOKEN] for one in framed]
        return Inputs(texts=texts, token_ids=[one.token_ids for one in framed], words=words)
    return _asked(model, texts, tally)


def _asked(model: LoadedModel, texts: Sequence[str], tally: Tally) -> Inputs:
    """Windows of questions about texts."""
    questions = [
        Question(id=str(number), question=" ".join(text.split()[:_QUESTION_WORDS]), context=text)
        for number, text in enumerate(texts)
    ]
    windows = windows_of(model, questions, tally)
    return Inputs(
        texts=texts, token_ids=[one.token_ids for one in windows], segment_ids=[one.segment_ids for one in windows]
    )


def _reads_pairs(model: LoadedModel) -> bool:
    if isinstance(model.task, TextSettings):
        return text_columns(model.task).text_pair is not None
    return isinstance(model.task, RerankSettings) or is_cross_encoder(model.folder)


def run(model: LoadedModel, inputs: Inputs) -> list[NDArray[np.float32]]:
    """The pooled vector of each sequence, its scores, or those of its tokens."""
    engine = model.engine
    kinds: dict[str | None, Callable[[PackedIds], Iterable[NDArray[np.float32]]]] = {
        None: lambda batch: engine.pooled(batch, model.embedding.pooling),
        "classification": engine.classify,
    }
    compute = kinds.get(model.head, lambda batch: batch.split(engine.tokens(batch)))
    return in_order(inputs.token_ids, inputs.segment_ids, compute, tokens_per_batch=engine.tokens_per_batch)


def answers_of(model: LoadedModel, inputs: Inputs) -> Answers:
    """What the model says about texts."""
    if model.head is None:
        prompt = model.embedding.prompt_of(prompt=None, role=None)
        locations = ["" for _ in inputs.texts]
        vectors = embed_part(model, inputs.texts, prompt=prompt, locations=locations, tally=Tally())
        return Answers(vectors=vectors, numbers=np.empty(0))
    scores = run(model, inputs)
    if model.head == "classification":
        return _classified(model, scores)
    if model.head == "tokens":
        logits_WC = np.concatenate([one[words] for one, words in zip(scores, inputs.words, strict=True)])
        return Answers(labels=logits_WC.argmax(1), numbers=_softmax(logits_WC, axis=1).ravel())
    return Answers(
        labels=np.concatenate([one.argmax(0) for one in scores]),
        numbers=np.concatenate([_softmax(one, axis=0).ravel() for one in scores]),
    )


def _classified(model: LoadedModel, scores: Sequence[NDArray[np.float32]]) -> Answers:
    if not model.labels:
        return Answers(numbers=np.concatenate(scores).astype(np.float64))
    multi_label = is_multi_label(model)
    found = [classification_of(row, model.labels, multi_label=multi_label) for row in scores]
    numbers = np.array([one.probabilities for one in found])
    labels = (numbers > 0.5).astype(np.int64).ravel() if multi_label else numbers.argmax(1)
    return Answers(labels=labels, numbers=numbers.ravel())


def _softmax(logits: NDArray[np.float32], *, axis: int) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    shares: NDArray[np.float64] = np.exp(wide - np.logaddexp.reduce(wide, axis=axis, keepdims=True))
    return shares
