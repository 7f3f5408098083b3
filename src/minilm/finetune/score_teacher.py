"""The teachers of scores: what is read of a folder before the texts, and the model that scores pairs.

In: a folder of a cross-encoder, or of an embedding model. Out: a `ScoreTeacher`. A cross-encoder gives the score before
its activation, an embedding model the similarity that its folder names. A teacher reads as much of its texts as it does
elsewhere: its scores do not depend on the model that learns them.

B pairs, W width of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from minilm.embedded import model_path
from minilm.errors import UsageError
from minilm.files.regular import sha256_text
from minilm.files.sentence_modules import MODULES, read_modules
from minilm.finetune.embed_teacher import VectorTeacher, find_teacher
from minilm.finetune.vector_encoder import VectorEncoder
from minilm.infer.api import LoadedModel, load
from minilm.infer.engines.protocol import Float32s
from minilm.infer.predictions import scores_of
from minilm.infer.similarity import known_similarity, pairwise_similarities
from minilm.model.embedding_files import read_scorer, read_scorer_limit
from minilm.model.metadata import label_names, model_checksums, read_config, read_problem, saved_head
from minilm.model.routes import read_routes
from minilm.tally import reporting_tally
from minilm.tasks.saved import longest_input, read_task
from minilm.text.tokenizer import Tokenizer

Pair = tuple[str, str]
"""A query and a text."""
_ANY = 512  # positions, where only the modules are of interest


class ScoresPairs(Protocol):
    """A teacher that is loaded."""

    def score(self, pairs: Sequence[Pair], locations: Sequence[str]) -> Float32s:
        """One score per pair, `[B]`; raises DataError if it cannot be computed, with the location of the pair."""


@dataclass(frozen=True, kw_only=True)
class ScoreTeacher:
    """A teacher that is not loaded yet.

    Attributes:
        name: as the recipe has it.
        folder: where it is.
        gives: what its scores are, in words.
        checksums: of its configuration (`config`) and of its weights (`weights`).
        steps: checksum of all else that decides a score.
        tokenizer: its fingerprint.
        loaded: load it.
    """

    name: str
    folder: Path
    gives: str
    checksums: Mapping[str, str]
    steps: str
    tokenizer: str
    loaded: Callable[[], ScoresPairs]


def find_score_teacher(name: str) -> ScoreTeacher:
    """The teacher in a folder, or of another name that `minilm.load` knows.

    Raises:
        DataError: it cannot be read, or would be computed differently here.
        UsageError: it has no score for a pair, and no vectors that are compared either.
        SystemProblem: it needs transformers, which is not installed.
    """
    folder = model_path(name)
    if read_routes(folder) is not None:
        return _embedding_model(name, folder)
    head, modules = saved_head(folder), read_modules(folder)
    is_alone = len(modules) < 2  # the encoder, whose head gives what the model gives
    if (head == "classification" and is_alone) or read_scorer(folder, model_max_tokens=_ANY) is not None:
        return _cross_encoder(name, folder)
    if head is not None and not modules:
        raise UsageError(
            f"task.teacher {folder} has a head for something else ({head}) and no {MODULES}, which says how a text "
            "becomes a vector; choose a cross-encoder or an embedding model"
        )
    return _embedding_model(name, folder)


# --- cross-encoders ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CrossEncoder:
    model: LoadedModel
    reported: set[str] = field(default_factory=set)

    def score(self, pairs: Sequence[Pair], locations: Sequence[str]) -> Float32s:
        """The scores before the activation."""
        with reporting_tally(self.reported) as tally:
            return scores_of(self.model, zip(pairs, locations, strict=True), raw_scores=True, tally=tally)


def _cross_encoder(name: str, folder: Path) -> ScoreTeacher:
    config = read_config(folder)
    scorer = read_scorer(folder, model_max_tokens=config.max_tokens)
    if scorer is None and read_problem(folder) != "regression":
        raise UsageError(
            f"task.teacher {folder} has {len(label_names(folder))} labels, expected a model with one score for a pair, "
            "or an embedding model"
        )
    limit = read_scorer_limit(folder, model_max_tokens=config.max_tokens)
    limit = longest_input(read_task(folder), positions=config.max_tokens, limit=limit)
    tokenizer = Tokenizer.load(folder)
    tokenizer.require_vocab_size(config.vocab_size, where=str(folder))
    return ScoreTeacher(
        name=name,
        folder=folder,
        gives="its scores before the activation",
        checksums=model_checksums(folder),
        steps=sha256_text(json.dumps([limit, None if scorer is None else scorer.checksum()])),
        tokenizer=tokenizer.fingerprint,
        loaded=lambda: _CrossEncoder(load(folder)),
    )


# --- embedding models ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Side:
    """The encoder of the texts of one role."""

    encoder: VectorEncoder
    prompt: str

    def encode(self, texts: Sequence[str], locations: Sequence[str]) -> Float32s:
        """The vector of each text; equal ones are computed once."""
        first: dict[str, str] = {}
        for text, location in zip(texts, locations, strict=True):
            first.setdefault(text, location)
        places = {text: place for place, text in enumerate(first)}
        vectors = self.encoder.encode(list(first), list(first.values()), prompt=self.prompt)
        return vectors[[places[text] for text in texts]]


@dataclass(frozen=True, kw_only=True)
class _EmbeddingModel:
    query: _Side
    document: _Side
    similarity: str | None

    def score(self, pairs: Sequence[Pair], locations: Sequence[str]) -> Float32s:
        """The similarity of each query with its text."""
        queries = self.query.encode([query for query, _ in pairs], locations)
        documents = self.document.encode([text for _, text in pairs], locations)
        return pairwise_similarities(queries, documents, self.similarity)


def _embedding_model(name: str, folder: Path) -> ScoreTeacher:
    query, document = find_teacher(name, "query"), find_teacher(name, "document")
    sides, kind = (query, document), known_similarity(query.embedding.similarity)
    sums = {one.encoder: model_checksums(one.encoder) for one in sides}
    steps = [kind, *((one.prompt, one.width, one.embedding.checksum()) for one in sides)]
    return ScoreTeacher(
        name=name,
        folder=folder,
        gives=f"{kind} similarities",
        checksums={part: sha256_text("".join(one[part] for one in sums.values())) for part in ("config", "weights")},
        steps=sha256_text(json.dumps(steps)),
        tokenizer=sha256_text("".join(one.tokenizer.fingerprint for one in sides)),
        loaded=partial(_load_both, query, document),
    )


def _load_both(query: VectorTeacher, document: VectorTeacher) -> ScoresPairs:
    first = query.loaded(query.embedding)
    second = first if document.encoder == query.encoder else document.loaded(document.embedding)
    return _EmbeddingModel(
        query=_Side(encoder=first, prompt=query.prompt),
        document=_Side(encoder=second, prompt=document.prompt),
        similarity=query.embedding.similarity,
    )
