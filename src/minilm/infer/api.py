"""The Python door: `minilm.load("DIR")` and what the loaded model can do.

In: a model folder. Out: numpy arrays, texts and plain Python values.

B sequences, T packed tokens, N tokens of one sequence, E hidden width, C labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilm.decode.decoder import Decoder, pos_shift_of, source_frame
from minilm.decode.settings import GenerationSettings
from minilm.embedded import model_path
from minilm.errors import DataError, UsageError
from minilm.files.checked import from_options
from minilm.infer.batching import in_order, windows
from minilm.infer.engines.torch import Engine, TorchEngine
from minilm.infer.generate import Generated, Generation, with_model_lengths
from minilm.infer.sources import Part, Source
from minilm.model.checkpoint import model_checksums, read_labels, read_model, saved_head
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings, read_embedding
from minilm.model.heads import ClassificationHead, HeadName, Model
from minilm.model.packing import Packed
from minilm.model.precision import Precision
from minilm.tally import Tally, reporting_tally
from minilm.tasks.saved import SavedTask, read_task
from minilm.tasks.squad.answers import Answer, AnswerSettings, best_answers
from minilm.tasks.squad.read import Question
from minilm.tasks.squad.windows import make_windows
from minilm.text.tokenizer import Tokenizer

_USABLE: tuple[HeadName, ...] = ("classification", "span", "mlm")
_DOES: Mapping[HeadName, tuple[str, str]] = {
    "classification": ("classify texts", "a GLUE task or labelled texts"),
    "span": ("answer questions", "the task squad"),
    "mlm": ("generate text", "the task seq2seq"),
}
_TARGET_TOKENS = 48  # where the folder does not say
_SPAN_TOKENS = 384  # of a window, where the folder does not say


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified:
    """What a classifier says of one text.

    Attributes:
        label: the most probable label; "" for a regression model.
        score: its probability; the predicted number for a regression model.
        probabilities: of all labels in their order; empty for a regression model.
    """

    label: str
    score: float
    probabilities: tuple[float, ...] = ()


def load(path: Path | str, *, precision: Precision = "fp32") -> LoadedModel:
    """Load a model folder of Hugging Face, sentence-transformers or minilm.

    Args:
        path: a local folder, or the text `embedded`; nothing is downloaded.
        precision: `bf16` is faster on CPUs and GPUs that compute in it, and rounds to three digits.

    Raises:
        DataError: no such folder, or its files do not fit together.
        UsageError: unknown precision.
        SystemProblem: the embedded model is not installed.
    """
    if precision not in get_args(Precision):
        expected = " or ".join(map(repr, get_args(Precision)))
        raise UsageError(f"precision is {precision!r}; expected {expected}")
    folder = model_path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such model folder")
    saved = saved_head(folder)
    head = saved if saved in _USABLE else None
    model = read_model(folder, head=head)
    if head == "mlm" and model.has_fresh_weights:
        model.head = head = None
    config = model.encoder.config
    tokenizer = Tokenizer.load(folder)
    tokenizer.require_vocab_size(config.vocab_size, where=str(folder))
    return LoadedModel(
        folder=folder,
        engine=TorchEngine(model, precision=precision),
        config=config,
        tokenizer=tokenizer,
        embedding=read_embedding(folder, model_max_tokens=config.max_tokens),
        head=head,
        labels=_labels(folder, model),
        task=read_task(folder),
    )


def _labels(folder: Path, model: Model) -> Sequence[str]:
    """Names of a classifier's labels; none for a regression model, which has one score."""
    if not isinstance(model.head, ClassificationHead) or model.head.out.out_features == 1:
        return ()
    return read_labels(folder) or [f"LABEL_{number}" for number in range(model.head.out.out_features)]


class LoadedModel:
    """A model ready to be used. Not to be shared between threads while it computes."""

    def __init__(
        self,
        *,
        folder: Path,
        engine: Engine,
        config: EncoderConfig,
        tokenizer: Tokenizer,
        embedding: EmbeddingSettings,
        head: HeadName | None = None,
        labels: Sequence[str] = (),
        task: SavedTask | None = None,
    ) -> None:
        """Join the parts; see `load`."""
        self._folder, self._engine = folder, engine
        self.head = head
        self.config = config
        self.tokenizer = tokenizer
        self.embedding = embedding
        self.labels = tuple(labels)
        self.task = task or SavedTask()
        self._decoder: Decoder | None = None
        self._has_told = False

    @property
    def max_tokens(self) -> int:
        """Longest input of the model's task: what it was trained with, where the folder says so."""
        return self.task.max_tokens or self.embedding.max_tokens

    def encode(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """One vector per text, `[number of texts, E]` float32, in the order of `texts`.

        Pooling, scaling and the longest input are those of the model folder. Any iterable is accepted and read
        in windows; an empty one gives `[0, E]`, an empty string the vector of its special tokens.

        Raises:
            UsageError: a single string was given, or an item is not a string.
        """
        vectors = [torch.empty(0, self.config.hidden_size)]
        limit = self.embedding.max_tokens
        with self._reporting() as tally:
            for window in windows(enumerate(_checked(texts, "encode"))):
                cut: list[int] = []
                sequences = self.tokenizer.encode([text for _, text in window], max_length=limit, cut=cut)
                tally.add_cut(cut, [f"text {number}" for number, _ in window], max_tokens=limit)
                vectors.append(torch.stack(in_order(sequences, None, self._embed)))
        joined: NDArray[np.float32] = torch.cat(vectors).numpy()
        return joined

    def classify(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> list[Classified]:
        """The label of each text, or of each pair of texts, in their order.

        Args:
            texts: the texts, or the first text of each pair.
            pairs: the second texts.

        Raises:
            UsageError: the model is no classifier, not one second text per text, or an item is not a string.
        """
        self.require_head("classification")
        found: list[Classified] = []
        firsts, seconds = _checked(texts, "classify"), None if pairs is None else iter(_checked(pairs, "classify"))
        with self._reporting() as tally:
            for window in windows(firsts):
                second = None if seconds is None else list(islice(seconds, len(window)))
                places = [f"text {number}" for number in range(len(found), len(found) + len(window))]
                found += self.classify_part(window, second, places=places, tally=tally)
        if seconds is not None and next(seconds, None) is not None:
            raise UsageError(f"found more second texts than the {len(found)} texts, expected one for each")
        return found

    def classify_part(
        self, texts: Sequence[str], pairs: Sequence[str] | None, *, places: Sequence[str], tally: Tally
    ) -> list[Classified]:
        """As `classify`, for those who bring their texts part by part: `tally` takes the `places` of those cut."""
        cut: list[int] = []
        rows = self.tokenizer.encode_pairs(texts, pairs, max_length=self.max_tokens, cut=cut)
        tally.add_cut(cut, places, max_tokens=self.max_tokens)
        scores = in_order([ids for ids, _ in rows], [segments for _, segments in rows], self._engine.scores)
        return [self._classified(row) for row in scores]

    def answer(self, question: str, context: str) -> Answer:
        """The answer to `question` in `context`: its text, score and place.

        `text` is `context[start:end]`, or "" (start and end None) where the model finds none and was trained to say
        so. `score` is its probability among the best candidates, `nbest` those candidates.

        Raises:
            UsageError: the model answers no questions, or the question leaves no room for the context.
        """
        question, context = _checked([question, context], "answer")
        return self.answers([Question(id="0", question=question, context=context)])[0]

    def answers(
        self, questions: Sequence[Question], *, settings: AnswerSettings | None = None, tally: Tally | None = None
    ) -> list[Answer]:
        """The answers to several questions, in their order; `settings` other than those of training.

        What had to be cut is warned about, or left to `tally` for those who bring their questions part by part.

        Raises:
            UsageError: the model answers no questions, or a question leaves no room for the context.
        """
        self.require_head("span")
        parts = make_windows(
            questions,
            self.tokenizer,
            max_tokens=min(self.task.max_tokens or _SPAN_TOKENS, self.config.max_tokens),
            stride=self.task.stride,
            max_question_tokens=self.task.max_question_tokens,
            tally=tally,
        )
        token_ids, segment_ids = [part.token_ids for part in parts], [part.segment_ids for part in parts]
        scores = in_order(token_ids, segment_ids, self._spans)
        return best_answers(questions, parts, scores, self.tokenizer, settings=settings or self.task.answers)

    @overload
    def generate(self, texts: Iterable[Part], *, n_best: Literal[1] = 1, **options: object) -> list[str]: ...

    @overload
    def generate(self, texts: Iterable[Part], *, n_best: int, **options: object) -> list[str] | list[list[str]]: ...

    def generate(self, texts: Iterable[Part], *, n_best: int = 1, **options: object) -> list[str] | list[list[str]]:
        """The text that the model makes of each text, in their order; several, best first, with `n_best` above 1.

        Args:
            texts: texts, or lists of tokens that are only looked up. Of one that is too long the tail is lost, also
                where it is the answer of `passage [SEP] answer`.
            n_best: how many targets of each text.
            options: see `GenerationSettings`; by default a search with 5 beams.

        Raises:
            UsageError: the model has no trained mlm head, a text is empty, or an option makes no sense.
        """
        settings = from_options(GenerationSettings, {"n_best": n_best, **options})
        if settings.traces:
            raise UsageError("generate returns texts only; for their traces call generations(texts, settings)")
        found = self.generations(texts, settings)
        if n_best == 1:
            return [one.text for one in found]
        return [[candidate.text for candidate in one.candidates] for one in found]

    def generations(self, texts: Iterable[Part], settings: GenerationSettings) -> list[Generated]:
        """As `generate`, with scores and, where asked for, traces."""
        generation = self.generation(settings)
        found: list[Generated] = []
        with reporting_tally() as tally:
            for window in windows(_sources(texts)):
                finished: dict[int, Generated] = {}
                for batch in generation.run(window, range(len(found), len(found) + len(window)), tally):
                    finished.update(batch)
                found += [finished[place] for place in range(len(window))]
        return found

    def stream(self, text: Part, **options: object) -> Iterator[str]:
        """The text that the model makes of `text`, piece by piece as it comes; greedy, or drawn with `sample`.

        Raises:
            UsageError: as `generate`, or more than one beam is asked for.
        """
        if not options.get("sample"):
            options.setdefault("beam_size", 1)
        return self.generation(from_options(GenerationSettings, options)).stream(next(_sources([text])))

    def generation(self, settings: GenerationSettings) -> Generation:
        """What generates with `settings`, for those who bring their sources batch by batch.

        Raises:
            UsageError: the model has no trained mlm head, or a setting makes no sense.
        """
        self.require_head("mlm")
        pos_shift = pos_shift_of(self.task.mask_way)
        if self._decoder is None:
            self._decoder = self._engine.decoder(self.tokenizer, pos_shift=pos_shift)
        most = self.task.max_source_tokens
        return Generation(
            self._decoder,
            self.tokenizer,
            with_model_lengths(settings, self.task.max_target_tokens or _TARGET_TOKENS),
            max_source_tokens=most and most - source_frame(pos_shift),
        )

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the files that the model was loaded from."""
        return model_checksums(self._folder)

    @contextmanager
    def _reporting(self) -> Iterator[Tally]:
        """A tally of texts that were cut, reported at the end of the first call that had some."""
        tally = Tally()
        try:
            yield tally
        finally:
            if not self._has_told:
                self._has_told = tally.report()

    def _embed(self, packed: Packed) -> Tensor:
        if self.embedding.pooling == "cls":
            vectors_BE = self._engine.first(packed)
        else:
            vectors_BE = mean_rows(self._engine.hidden(packed), packed)
        return (torch.nn.functional.normalize(vectors_BE) if self.embedding.normalize else vectors_BE).cpu()

    def _spans(self, packed: Packed) -> list[NDArray[np.float32]]:
        return [part.numpy() for part in self._engine.scores(packed).split(list(packed.lengths))]

    def _classified(self, logits_C: Tensor) -> Classified:
        if not self.labels:
            return Classified(label="", score=float(logits_C[0]))
        probabilities = logits_C.softmax(-1).tolist()
        best = int(np.argmax(probabilities))
        return Classified(label=self.labels[best], score=probabilities[best], probabilities=tuple(probabilities))

    def require_head(self, head: HeadName) -> None:
        """Refuse what the model was not trained for.

        Raises:
            UsageError: the model has another head, or none.
        """
        if self.head != head:
            what, task = _DOES[head]
            found = "it has no trained head" if self.head is None else f"its {self.head} head can {_DOES[self.head][0]}"
            raise UsageError(f"{self._folder} cannot {what}: {found}; train a model with minilm finetune and {task}")


def mean_rows(hidden_TE: Tensor, packed: Packed) -> Tensor:
    """Mean of each sequence's rows, `[T, E]` -> `[B, E]`."""
    parts = hidden_TE.split([count * length for count, length in packed.runs])
    return torch.cat(
        [rows.view(count, length, -1).mean(1) for (count, length), rows in zip(packed.runs, parts, strict=True)]
    )


def _checked(texts: Iterable[str], what: str) -> Iterable[str]:
    if isinstance(texts, str):
        raise UsageError(f"{what} expects a list of texts, not one string; write {what}([text])")
    return _strings(texts, what)


def _strings(texts: Iterable[str], what: str) -> Iterable[str]:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"text {number} is a {type(text).__name__}; {what} expects strings")
        yield text


def _sources(texts: Iterable[Part]) -> Iterator[Source]:
    """Texts as sources; raises UsageError for one that is no text and no list of tokens, or is empty."""
    if isinstance(texts, str):
        raise UsageError("generate expects a list of texts, not one string; write generate([text])")
    for number, text in enumerate(texts):
        if not isinstance(text, str | list | tuple):
            raise UsageError(f"text {number} is a {type(text).__name__}; generate expects texts or token lists")
        tokens = None if isinstance(text, str) else list(text)
        if tokens is not None and not all(isinstance(token, str) for token in tokens):
            raise UsageError(f"text {number} holds something else than tokens; generate expects texts or token lists")
        if not (text.strip() if isinstance(text, str) else tokens):
            raise UsageError(f"text {number} is empty, so there is nothing to generate from; leave it out")
        yield Source(parts=[text if tokens is None else tokens], id=str(number), place=f"text {number}")
