"""Text generation: sources to token ids, batches by memory, hypotheses to text.

In: sources (texts, or lists of vocabulary tokens). Out: `Generated` per source, batch by batch.

K beams (or samples) of each source.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from minilm.decode.beam import search
from minilm.decode.decoder import Decoder
from minilm.decode.rescore import Hypothesis, best_hypotheses
from minilm.decode.sampling import choose, choose_all
from minilm.decode.settings import GenerationSettings
from minilm.decode.traces import Trace
from minilm.errors import UsageError
from minilm.infer.sources import GenerationSource, SourceEncoder
from minilm.model.token_budget import microbatches
from minilm.randomness import generator
from minilm.tally import Tally, reporting_tally
from minilm.tasks.seq2seq.settings import PairSettings, Seq2SeqSettings
from minilm.text.detokenize import text_of
from minilm.text.pairs import Int32s
from minilm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedText:
    """One target of a source.

    `score` is its log-probability; in a search with a length penalty, the penalized one.
    """

    text: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """What was generated for one source: `n_best` candidates, best first, and the trace if requested."""

    candidates: tuple[GeneratedText, ...]
    trace: Trace | None = None

    @property
    def text(self) -> str:
        """The best target."""
        return self.candidates[0].text


class Generation:
    """A decoder with its settings: sources in, `Generated` out."""

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer, settings: GenerationSettings, *, max_source_tokens: int | None
    ) -> None:
        """Prepare to generate.

        Args:
            decoder: the model.
            tokenizer: of the model.
            settings: with `max_target_tokens`.
            max_source_tokens: where sources are truncated; None: at what the model holds.

        Raises:
            UsageError: `min_tokens` leaves no room for a target.
        """
        steps = settings.num_steps
        if settings.min_tokens >= steps:
            raise UsageError(
                f"min_tokens is {settings.min_tokens}, but a target has at most {steps} tokens, end token included; "
                "lower one or raise the other"
            )
        self._decoder, self._tokenizer, self._settings = decoder, tokenizer, settings
        self._searches = settings.beam_size > 1 and not settings.sample
        self._ignored = ignored_tokens(settings.ban_ignore, tokenizer)
        room = decoder.source_room(steps)
        self._room = min(room, max_source_tokens or room)
        self._encoder = SourceEncoder(tokenizer=tokenizer, frame=decoder.frame, room=self._room)

    @property
    def identity(self) -> dict[str, object]:
        """JSON values by name: the tokenizer, and all settings that affect the targets."""
        settings = {name: value for name, value in asdict(self._settings).items() if name != "batch_tokens"}
        return {"tokenizer": self._tokenizer.fingerprint, **settings}

    def encode(self, sources: Sequence[GenerationSource], tally: Tally) -> list[Int32s]:
        """Framed ids of each source; `tally` counts what was truncated or is unknown.

        Raises:
            DataError: a source has no tokens.
        """
        return self._encoder.encode(sources, tally)

    def run(self, framed: Sequence[Int32s], numbers: Sequence[int]) -> Iterator[list[tuple[int, Generated]]]:
        """Generate for some sources, batch by batch, shortest first.

        Args:
            framed: ids of each source, from `encode`.
            numbers: the number of each source, which seeds its random numbers.

        Yields:
            (index into `framed`, what was generated) for each source of one batch.
        """
        width = self._settings.beam_size if self._searches else self._settings.n_best
        columns = np.array([len(ids) for ids in framed]) + width * self._settings.num_steps
        for part in microbatches(columns, token_budget=self._settings.batch_tokens):
            indices = part.tolist()
            found = self._generate([framed[index] for index in indices], [numbers[index] for index in indices])
            yield list(zip(indices, found, strict=True))

    def stream(self, source: GenerationSource) -> Iterator[str]:
        """The text of one target, piece by piece; raises UsageError for a beam search."""
        if self._searches:
            raise UsageError("a beam search knows its target only at the end; stream with beam_size=1 or sample=True")
        if self._settings.n_best > 1:
            raise UsageError(f"n_best is {self._settings.n_best}, but only one target can be streamed; leave it out")
        with reporting_tally() as tally:
            framed = self.encode([source], tally)
        draws = self._draws([0]) if self._settings.sample else None
        ids: list[int] = []
        text = shown = ""
        for chosen in choose(self._decoder, framed, self._settings, draws, self._ignored):
            ids.append(chosen.ids[0])
            text = text_of(ids, self._tokenizer)
            if len(text) > len(shown) and text.startswith(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        if len(text) > len(shown):  # ended inside a character
            yield text[len(shown) :]

    def _generate(self, sources: Sequence[Int32s], numbers: Sequence[int]) -> list[Generated]:
        settings = self._settings
        if not self._searches:
            draws = self._draws(numbers) if settings.sample else None
            chosen = choose_all(self._decoder, sources, settings, draws, self._ignored)
            return [self._finished(found) for found in chosen]
        return [
            self._finished(
                best_hypotheses(
                    trace,
                    end_id=self._decoder.end_id,
                    length_penalty=settings.length_penalty,
                    n_best=settings.n_best,
                ),
                trace if settings.traces else None,
            )
            for trace in search(self._decoder, sources, settings, self._ignored)
        ]

    def _finished(self, hypotheses: Sequence[Hypothesis], trace: Trace | None = None) -> Generated:
        candidates = (GeneratedText(text=text_of(one.ids, self._tokenizer), score=one.score) for one in hypotheses)
        return Generated(candidates=tuple(candidates), trace=trace)

    def _draws(self, numbers: Sequence[int]) -> list[list[np.ndarray]]:
        """The uniform random numbers for each sample of each source."""
        length, seed = self._settings.num_steps, self._settings.seed
        samples = range(self._settings.n_best)
        return [
            [generator(seed, "generate", number, sample).random(length) for sample in samples] for number in numbers
        ]


def generation_of(model: LoadedModel, settings: GenerationSettings) -> Generation:
    """A `Generation` with `settings`, for callers that supply their sources in batches.

    Raises:
        UsageError: the model has no trained mlm head, or a setting is invalid.
    """
    task = model.task
    max_target_tokens = settings.max_target_tokens or model.task_or(PairSettings()).max_target_tokens
    return Generation(
        model.decoder,
        model.tokenizer,
        replace(settings, max_target_tokens=max_target_tokens),
        max_source_tokens=task.source_room if isinstance(task, Seq2SeqSettings) else None,
    )


def ignored_tokens(words: str, tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of tokens separated by `|`; those in brackets are upper-cased; unknown ones cause a warning."""
    names = [word.upper() if word.startswith("[") and word.endswith("]") else word for word in words.split("|") if word]
    unknown = [name for name in names if tokenizer.token_to_id(name) is None]
    if unknown:
        logger.warning(
            "%d of %d tokens whose n-grams may repeat are not in the vocabulary (first: %r) and have no effect",
            len(unknown),
            len(names),
            unknown[0],
        )
    found = (tokenizer.token_to_id(name) for name in names)
    return frozenset(token_id for token_id in found if token_id is not None)
