"""The Python API: `minilm.load("DIR")` and the methods of the loaded model.

In: a model folder. Out: numpy arrays, texts and plain Python values.

B sequences, T packed tokens, N tokens of one sequence, E hidden width, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minilm.decode.settings import GenerationSettings
from minilm.embedded import model_path
from minilm.errors import DataError, UsageError
from minilm.files.checked import Settings, from_options
from minilm.hub import downloads
from minilm.infer.batching import TEXTS_PER_CHUNK, chunked
from minilm.infer.containers import items_of, listed, pair_of, strings_of
from minilm.infer.engine_names import EngineName
from minilm.infer.engines import load_engine
from minilm.infer.engines.protocol import Engine, GenerationEngine
from minilm.infer.engines.scorer import PooledScorer
from minilm.infer.predictions import (
    Classified,
    Ranked,
    answer_part,
    classify_part,
    ranking_scores,
    require_head,
    require_one_score,
    scores_of,
    shown_scores,
    tag_part,
)
from minilm.infer.similarity import similarities
from minilm.infer.sources import Part, generation_sources, parts_of
from minilm.infer.vector_precision import StoredVectors, quantized
from minilm.infer.vectors import VectorOptions, stored_part, vector_options
from minilm.model.activations import Activation
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import read_embedding, read_scorer
from minilm.model.metadata import (
    LABELLED,
    HeadName,
    ProblemType,
    label_names,
    read_activation,
    read_config,
    read_problem,
    saved_head,
)
from minilm.model.precision import Precision, VectorPrecision
from minilm.model.routes import read_routes
from minilm.model.vector_ranges import VECTOR_RANGES, read_model_ranges
from minilm.progress import Progress
from minilm.tally import reporting_tally
from minilm.tasks.rerank.settings import RerankSettings
from minilm.tasks.saved import SavedTask, longest_input, read_task
from minilm.tasks.seq2seq.settings import MaskingSettings
from minilm.tasks.squad.settings import AnswerSettings
from minilm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from minilm.decode.decoder import Decoder
    from minilm.infer.generate import Generated
    from minilm.tasks.squad.answers import Answer
    from minilm.tasks.squad.read import Question
    from minilm.tasks.tokens.entities import Tagged

_Settings = TypeVar("_Settings", bound=Settings)


def load(
    path: Path | str,
    *,
    engine: EngineName = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    allow_download: bool = False,
) -> LoadedModel:
    """Load a Hugging Face, sentence-transformers or minilm model folder.

    Of an asymmetric model, each encoder is loaded when `encode` first gets texts of its role.

    Args:
        path: a local folder, `embedded`, or the name of a model in Hugging Face's cache, such as
            `sentence-transformers/all-MiniLM-L6-v2`.
        engine: the back end: `native`, `torch`, or `auto` for the best that can run the model.
        precision: `bf16` is faster on processors that have it, and rounds to about three digits; `int8` is faster
            still, and needs a folder that `minilm quantize` wrote.
        threads: of the engine; by default as many as this process may use.
        allow_download: download a model of that name that is not in the cache.

    Raises:
        DataError: the folder does not exist, or its files are inconsistent.
        UsageError: unknown engine or precision.
        SystemProblem: the embedded model is not installed, or a download failed.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"precision is {precision!r}; expected {', '.join(map(repr, get_args(Precision)))}")
    with downloads(allowed=allow_download):
        folder = model_path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such model folder")
    if (routes := read_routes(folder)) is not None:
        from minilm.infer.asymmetric import AsymmetricModel

        return AsymmetricModel(folder, routes, engine=engine, precision=precision, threads=threads)
    config = read_config(folder)
    embedding = read_embedding(folder, model_max_tokens=config.max_tokens)
    embedding.width(config.hidden_size)
    scorer = read_scorer(folder, model_max_tokens=config.max_tokens)
    head = saved_head(folder) if scorer is None else None
    loaded = load_engine(engine, folder, head=head, precision=precision, threads=threads)
    if scorer is not None:
        loaded = PooledScorer(loaded, scorer)
    tokenizer = Tokenizer.load(folder)
    tokenizer.require_vocab_size(config.vocab_size, where=str(folder))
    problem: ProblemType | None = None
    if loaded.head == "classification":
        problem = "regression" if scorer is not None else read_problem(folder)
    return LoadedModel(
        folder=folder,
        engine=loaded,
        config=config,
        tokenizer=tokenizer,
        embedding=embedding,
        labels=label_names(folder) if loaded.head in LABELLED and scorer is None else (),
        problem=problem,
        activation="Identity" if problem is None else read_activation(folder, problem),
        task=read_task(folder),
    )


class LoadedModel:
    """A model that is ready to use. It must not be shared between threads while it computes.

    Attributes:
        folder: where it was loaded from.
        ranges_file: the ranges of its int8 vectors, which may not exist; one file of both encoders if asymmetric.
        engine: the back end that runs it.
        head: its trained head, if any.
        config: its sizes.
        tokenizer: its tokenizer.
        embedding: how a text becomes a vector.
        labels: the labels of a classifier or of words, in order; empty for a regression model, which has one score.
        problem: what the scores of a classifier are: one label of several, each label or not, one number.
        activation: what is applied to that one number; a sigmoid for most cross-encoders of sentence-transformers.
        task: the settings it was trained with; None if the folder does not record them.
    """

    def __init__(
        self,
        *,
        folder: Path,
        engine: Engine,
        config: EncoderConfig,
        tokenizer: Tokenizer,
        embedding: EmbeddingSettings,
        labels: Sequence[str],
        problem: ProblemType | None,
        activation: Activation = "Identity",
        task: SavedTask | None,
    ) -> None:
        """Store the parts; see `load`."""
        self.folder, self.engine, self.config, self.tokenizer = folder, engine, config, tokenizer
        self.ranges_file = folder / VECTOR_RANGES
        self.embedding, self.task = embedding, task
        self.problem, self.activation = problem, activation
        self.labels = () if problem == "regression" else tuple(labels)
        self._reported: set[str] = set()

    @property
    def head(self) -> HeadName | None:
        """The model's trained head, if any."""
        return self.engine.head

    @cached_property
    def embedding_tokenizer(self) -> Tokenizer:
        """The tokenizer of `encode`; it lowercases if the folder says so."""
        return self.tokenizer.lowercased() if self.embedding.lowercase else self.tokenizer

    def task_or(self, default: _Settings) -> _Settings:
        """The settings the model was trained with if they have the type of `default`, else `default`."""
        return self.task if isinstance(self.task, type(default)) else default

    @property
    def decoder(self) -> Decoder:
        """The decoder for generation; raises UsageError if the model has no trained mlm head."""
        from minilm.decode.decoder import pos_shift_of

        require_head(self, "mlm")
        if not isinstance(self.engine, GenerationEngine):
            raise UsageError(f"{type(self.engine).__name__} cannot generate; load the model with engine='torch'")
        masking = self.task_or(MaskingSettings())
        return self.engine.decoder(self.tokenizer, pos_shift=pos_shift_of(masking.mask_way))

    @property
    def max_tokens(self) -> int:
        """Longest input of the model's task: the training value, if the folder records it."""
        return longest_input(self.task, positions=self.config.max_tokens, limit=self.embedding.max_tokens)

    def __repr__(self) -> str:
        """What it is and what it does, for example at the prompt of an interpreter."""
        from minilm.tasks.tokens.entities import types_of

        sizes = self.config
        does = f"encodes texts as {self.embedding.width(sizes.hidden_size)} numbers"
        if self.head == "classification":
            number = "ranks texts" if isinstance(self.task, RerankSettings) else "predicts a number"
            does = f"classifies texts as {listed(self.labels)}" if self.labels else number
        elif self.head == "tokens":
            does = f"tags words as {listed(types_of(self.labels))}"
        elif self.head is not None:
            does = {"span": "answers questions", "mlm": "generates texts"}[self.head]
        count = sizes.num_parameters()
        parameters = f"{count / 1e6:.1f} million" if count >= 100_000 else f"{count:,}"
        return (
            f"<minilm model {self.folder}: {sizes.family}, {sizes.num_layers} layers of width {sizes.hidden_size}, "
            f"{parameters} parameters, {does}, up to {self.max_tokens} tokens>"
        )

    @overload
    def encode(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        role: str | None = None,
        dimensions: int | None = None,
        vectors: Literal["fp32"] = "fp32",
        progress: bool = False,
    ) -> NDArray[np.float32]: ...

    @overload
    def encode(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        role: str | None = None,
        dimensions: int | None = None,
        vectors: VectorPrecision,
        progress: bool = False,
    ) -> StoredVectors: ...

    def encode(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        role: str | None = None,
        dimensions: int | None = None,
        vectors: VectorPrecision = "fp32",
        progress: bool = False,
    ) -> StoredVectors:
        """One vector per text, `[number of texts, D]`, in the order of `texts`; of one text its vector, `[D]`.

        Prompts, pooling, the modules after it and the max length come from the model folder. Any iterable with an order
        is accepted and read in chunks; an empty one gives `[0, D]`, an empty string the vector of its special tokens.

        Args:
            texts: a list, or a column of numpy, pandas, pyarrow or datasets; or one text.
            prompt: text to put before each text; "" for none.
            role: the folder's prompt of this name, such as `query` or `document`; those two have no prompt where the
                folder has none. Without `prompt` and `role`, the folder's default prompt, if any.
            dimensions: keep this many values, the first ones; if the folder normalizes, they get length 1 again.
            vectors: `fp32`; `fp16`; `int8`, within the ranges of the folder's `vector_ranges.json`; `binary`, one bit
                per value, eight in a byte.
            progress: show it on standard error.

        Raises:
            UsageError: `texts` is not a list of texts, there is no such role, both `prompt` and `role` are given,
                `dimensions` are too many, or the folder has no ranges for `int8`.
        """
        model = self.route(role)
        options = vector_options(model, prompt=prompt, role=role, dimensions=dimensions, precision=vectors)
        ranges = model.vector_ranges(options.dimensions) if vectors == "int8" else None
        if isinstance(texts, str):
            vector: StoredVectors = model._encode([texts], options, ranges, progress=progress)[0]
            return vector
        return model._encode(texts, options, ranges, progress=progress)

    def route(self, role: str | None) -> LoadedModel:
        """The model that encodes texts of this role: this one, if it is not asymmetric."""
        return self

    def _encode(
        self, texts: Iterable[str], options: VectorOptions, ranges: NDArray[np.float32] | None, *, progress: bool
    ) -> StoredVectors:
        total = len(texts) if isinstance(texts, Sized) else None
        no_vector = np.empty((0, options.dimensions), dtype=np.float32)
        found = [quantized(no_vector, options.precision, ranges)]
        with (
            reporting_tally(self._reported) as tally,
            Progress("encode", unit="texts", silent=not progress).begin(total) as shown,
        ):
            for chunk in chunked(enumerate(strings_of(texts, "encode")), TEXTS_PER_CHUNK):
                locations = [f"text {number}" for number, _ in chunk]
                whole = [text for _, text in chunk]
                found.append(
                    stored_part(self, whole, options=options, ranges_2D=ranges, locations=locations, tally=tally)
                )
                shown.advance(len(chunk))
        return np.concatenate(found)

    def vector_ranges(self, dimensions: int) -> NDArray[np.float32]:
        """The lowest and the highest value of each of D dimensions that int8 vectors hold, `[2, D]`.

        Raises:
            UsageError: there is no such file, `vector_ranges.json` of the folder.
            DataError: the file is damaged, or its ranges are for other dimensions.
        """
        return read_model_ranges(self.ranges_file, dimensions=dimensions)

    def similarity(self, first: ArrayLike, second: ArrayLike) -> NDArray[np.float32]:
        """The similarity of each vector of `first` with each of `second`, `[A, B]`; a larger one is closer.

        It is what the folder names: cosine (also if it names none), dot, euclidean or manhattan, the latter two as
        negative distances.

        Raises:
            UsageError: these are not float vectors of one width, or the folder names another similarity.
        """
        return similarities(first, second, self.embedding.similarity)

    def classify(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> list[Classified]:
        """The label of each text, or of each pair of texts, in order; all labels that apply with a multi-label model.

        Args:
            texts: the texts, or the first text of each pair.
            pairs: the second texts.

        Raises:
            UsageError: the model is not a classifier, the numbers of texts differ, or these are not lists of texts.
        """
        require_head(self, "classification")
        found: list[Classified] = []
        firsts, seconds = strings_of(texts, "classify"), None if pairs is None else strings_of(pairs, "classify")
        with reporting_tally(self._reported) as tally:
            for chunk in chunked(firsts, TEXTS_PER_CHUNK):
                second = None if seconds is None else list(islice(seconds, len(chunk)))
                locations = [f"text {number}" for number in range(len(found), len(found) + len(chunk))]
                found += classify_part(self, chunk, second, locations=locations, tally=tally)
        if seconds is not None and next(seconds, None) is not None:
            raise UsageError(f"found more second texts than the {len(found)} first texts; expected one for each")
        return found

    def score_pairs(self, pairs: Iterable[Sequence[str]], *, raw_scores: bool = False) -> NDArray[np.float32]:
        """The score of each pair of a query and a text, `[number of pairs]` float32, in order.

        Args:
            pairs: of a query and a text.
            raw_scores: the scores before the activation of the folder, from which other models learn. Otherwise it has
                been applied: a sigmoid after training on labels of 0 and 1, else none.

        Raises:
            UsageError: the model has no score for a pair, or an item is not a pair of texts.
            DataError: a score is not finite.
        """
        require_one_score(self)
        located = ((pair, f"pair {number}") for number, pair in enumerate(items_of(pairs, "score_pairs")))
        checked = ((pair_of(pair, location), location) for pair, location in located)
        with reporting_tally(self._reported) as tally:
            return scores_of(self, checked, raw_scores=raw_scores, tally=tally)

    def rank(self, query: str, texts: Iterable[str], *, top_k: int | None = None) -> list[Ranked]:
        """The texts with their scores, the best first; texts with equal scores keep their order.

        They are sorted by the scores before the activation of the folder, and have those after it: a sigmoid makes
        high scores equal.

        Args:
            query: the query.
            texts: the texts, such as those that a search has found.
            top_k: how many of the best are returned; None: all.

        Raises:
            UsageError: the model has no score for a pair, these are not texts, or `top_k` is less than 1.
        """
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k is {top_k}; expected 1 or more, or None for all")
        kept, query = list(strings_of(texts, "rank")), next(strings_of([query], "rank"))
        raw = self.score_pairs([(query, text) for text in kept], raw_scores=True)
        ranking = ranking_scores(raw, self.activation)
        scores = shown_scores(ranking, self.activation).tolist()
        order = np.argsort(-ranking, kind="stable").tolist()
        return [Ranked(index=index, score=scores[index], text=kept[index]) for index in order[:top_k]]

    def tag(self, texts: Iterable[Part]) -> list[Tagged]:
        """The entities of each text, in order, with their characters; and the tag of each of its words.

        Args:
            texts: texts, which the tokenizer splits into words, or lists of words.

        Raises:
            UsageError: the model does not tag words, or these are not lists of texts.
        """
        require_head(self, "tokens")
        found: list[Tagged] = []
        with reporting_tally(self._reported) as tally:
            for chunk in chunked(parts_of(texts, "tag"), TEXTS_PER_CHUNK):
                locations = [f"text {number}" for number in range(len(found), len(found) + len(chunk))]
                found += tag_part(self, chunk, locations=locations, tally=tally)
        return found

    def answer(self, question: str, context: str) -> Answer:
        """The answer to `question` in `context`: its text, score and location.

        `text` is `context[start:end]`, or "" (start and end None) if the model finds none and was trained to say so.
        `score` is its probability among the best candidates, which are in `nbest`.

        Raises:
            UsageError: the model does not answer questions, or the question leaves no room for the context.
        """
        from minilm.tasks.squad.read import Question

        question, context = strings_of([question, context], "answer")
        return self.answers([Question(id="0", question=question, context=context)])[0]

    def answers(self, questions: Sequence[Question], *, settings: AnswerSettings | None = None) -> list[Answer]:
        """The answers to several questions, in order; `settings` replace those of training.

        Raises:
            UsageError: the model does not answer questions, or a question leaves no room for the context.
        """
        from minilm.tasks.squad.read import Question

        require_head(self, "span")
        for number, one in enumerate(questions):
            if not isinstance(one, Question):
                raise UsageError(f"question {number}: found {type(one).__name__}; answers expects minilm.Question")
        with reporting_tally(self._reported) as tally:
            return answer_part(self, questions, settings=settings, tally=tally)

    @overload
    def generate(self, texts: Iterable[Part], *, n_best: Literal[1] = 1, **options: object) -> list[str]: ...

    @overload
    def generate(self, texts: Iterable[Part], *, n_best: int, **options: object) -> list[str] | list[list[str]]: ...

    def generate(self, texts: Iterable[Part], *, n_best: int = 1, **options: object) -> list[str] | list[list[str]]:
        """The text generated from each text, in order; several, best first, with `n_best` above 1.

        Args:
            texts: texts, or lists of tokens, which are only looked up. A text that is too long loses its tail, even
                if that is the answer of `passage [SEP] answer`.
            n_best: number of targets per text.
            options: see `GenerationSettings`; by default a search with 5 beams.

        Raises:
            UsageError: the model has no trained mlm head, a text is empty, or an option is invalid.
        """
        settings = from_options(GenerationSettings, {"n_best": n_best, **options})
        if settings.traces:
            raise UsageError("generate returns only texts; for traces call generations(texts, settings)")
        found = self.generations(texts, settings)
        if n_best == 1:
            return [one.text for one in found]
        return [[candidate.text for candidate in one.candidates] for one in found]

    def generations(self, texts: Iterable[Part], settings: GenerationSettings) -> list[Generated]:
        """Like `generate`, with scores and, if requested, traces."""
        from minilm.infer.generate import generation_of

        generation = generation_of(self, settings)
        found: list[Generated] = []
        with reporting_tally(self._reported) as tally:
            for chunk in chunked(generation_sources(texts), TEXTS_PER_CHUNK):
                finished: dict[int, Generated] = {}
                framed = generation.encode(chunk, tally)
                for batch in generation.run(framed, range(len(found), len(found) + len(chunk))):
                    finished.update(batch)
                found += [finished[index] for index in range(len(chunk))]
        return found

    def stream(self, text: Part, **options: object) -> Iterator[str]:
        """The text generated from `text`, piece by piece; greedy, or drawn at random with `sample`.

        Raises:
            UsageError: as for `generate`, or more than one beam is requested.
        """
        from minilm.infer.generate import generation_of

        if not options.get("sample"):
            options.setdefault("beam_size", 1)
        return generation_of(self, from_options(GenerationSettings, options)).stream(next(generation_sources([text])))
