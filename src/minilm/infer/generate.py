"""Generating text: settings, sources to token ids, batches by what they hold in memory, hypotheses to text.

In: sources (texts, or lists of tokens that are only looked up). Out: `Generated` per source, batch by batch.

K beams (or samples) of each source.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypedDict

import numpy as np

from minilm.decode.beam import BeamSettings, search
from minilm.decode.constraints import Constraints
from minilm.decode.decoder import Decoder
from minilm.decode.rescore import Hypothesis, best_hypotheses
from minilm.decode.sampling import SamplingSettings, choose, choose_all
from minilm.decode.traces import Trace
from minilm.errors import UsageError
from minilm.files.kinds import of_kind
from minilm.infer.sources import Source, SourceEncoder
from minilm.model.token_budget import microbatches
from minilm.randomness import generator
from minilm.tally import Tally, reporting_tally
from minilm.tasks.saved import SavedTask
from minilm.text.detokenize import text_of
from minilm.text.pairs import Int32s
from minilm.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

BATCH_TOKENS = 16384
_BEAMS, _TARGET_TOKENS = 5, 48
_KINDS: Mapping[str, str] = {
    **{"bool": "True or False", "int": "a whole number", "float": "a number", "str": "a text"},
    "int | None": "a whole number or None",
}


class Options(TypedDict, total=False):
    """The fields of `GenerationSettings` but `n_best`, as keywords."""

    beam_size: int | None
    max_target_tokens: int | None
    min_tokens: int
    length_penalty: float
    ban_ngrams: int
    ban_ignore: str
    sample: bool
    top_k: int
    top_p: float
    temperature: float
    seed: int
    batch_tokens: int


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How to generate.

    Attributes:
        beam_size: beams of the search; 1 takes the most probable token each time. None: 5, or 1 where tokens are drawn.
        max_target_tokens: most tokens of a target with its end token; None: what the model was trained with, else 48.
        min_tokens: tokens before the end token may come.
        length_penalty: scores are divided by ((5 + n) / 6) ** length_penalty where it is positive.
        ban_ngrams: no n-gram of this length comes twice in a target; 0 for no such ban.
        ban_ignore: tokens whose n-grams may come again, with `|` between them; those in brackets are upper-cased.
        sample: draw tokens at random instead of searching.
        top_k: draw among the k most probable tokens; 0 for all.
        top_p: draw among the fewest tokens that are this probable together.
        temperature: below 1 the probable tokens become more so.
        seed: what is drawn depends on it, the number of the source and nothing else.
        n_best: how many targets of each source, best first.
        batch_tokens: tokens kept in memory at once: of the sources, and of all beams' targets.
        traces: keep what the search saw, to score it again; the search then never stops early.
    """

    beam_size: int | None = None
    max_target_tokens: int | None = None
    min_tokens: int = 1
    length_penalty: float = 0.0
    ban_ngrams: int = 0
    ban_ignore: str = ""
    sample: bool = False
    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    n_best: int = 1
    batch_tokens: int = BATCH_TOKENS
    traces: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a value of another kind, and for what would be ignored."""
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if not of_kind(value, kind):
                raise UsageError(f"{field.name} is {value!r}; expected {_KINDS[kind]}")
        drawing = {
            **{"top_k": self.top_k != 0, "top_p": self.top_p != 1},
            **{"temperature": self.temperature != 1, "seed": self.seed != 0},
        }
        searching = {"beam_size": self.beam_size is not None, "length_penalty": self.length_penalty != 0}
        given = [name for name, is_set in (searching if self.sample else drawing).items() if is_set]
        if given:
            other = "without sample" if self.sample else "with sample"
            raise UsageError(f"{given[0]} has a meaning only {other}; leave one of the two out")
        if self.ban_ignore and not self.ban_ngrams:
            raise UsageError("ban_ignore has a meaning only with ban_ngrams; give both or none")
        if self.length_penalty < 0:
            raise UsageError(f"length_penalty is {self.length_penalty}; expected 0 (none) or more")
        if self.beam_size == 1 and self.length_penalty:
            raise UsageError("length_penalty has a meaning only for several beams; leave it out or raise beam_size")
        for name in ("beam_size", "max_target_tokens", "n_best", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; expected 1 or more")
        if self.traces and (self.sample or self.beam_size == 1):
            raise UsageError("traces are of a beam search; use a beam_size of 2 or more, without sample")

    def completed(self, task: SavedTask) -> GenerationSettings:
        """With the model's numbers where none were given."""
        return replace(
            self,
            beam_size=_BEAMS if self.beam_size is None and not self.sample else self.beam_size,
            max_target_tokens=self.max_target_tokens or task.max_target_tokens or _TARGET_TOKENS,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedText:
    """One target of a source.

    `score` is its log-probability; of a search with a length penalty, the penalised one.
    """

    text: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """What was generated for one source: `n_best` candidates, best first, and the trace where it was asked for."""

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
        """Take settings that are `completed`; sources are cut to `max_source_tokens`, or to what the model holds.

        Raises:
            UsageError: a number makes no sense.
        """
        assert settings.max_target_tokens is not None, "completed"
        self._decoder, self._tokenizer, self._settings = decoder, tokenizer, settings
        self._sampling, self._beams = _choices(settings, settings.max_target_tokens, tokenizer)
        room = decoder.source_room(settings.max_target_tokens)
        self._room = min(room, max_source_tokens or room)
        self._encoder = SourceEncoder(tokenizer=tokenizer, frame=decoder.frame, room=self._room)

    def check(self, sources: Sequence[Source], tally: Tally) -> None:
        """Count what will be cut or is unknown; raise DataError for a source without a token."""
        self._encoder.encode(sources, tally)

    def run(
        self, sources: Sequence[Source], numbers: Sequence[int], tally: Tally
    ) -> Iterator[list[tuple[int, Generated]]]:
        """Generate for some sources, batch by batch, shortest first.

        Args:
            sources: the sources.
            numbers: the number of each source, by which its random numbers are drawn.
            tally: takes what was cut or is unknown.

        Yields:
            (place among `sources`, what was generated) of the sources of one batch.

        Raises:
            DataError: a source has no token.
        """
        framed = self._encoder.encode(sources, tally)
        width = self._beams.beam_size if self._beams else self._settings.n_best
        columns = np.array([len(ids) for ids in framed]) + width * self._sampling.max_target_tokens
        for part in microbatches(columns, token_budget=self._settings.batch_tokens):
            places = part.tolist()
            found = self._generate([framed[place] for place in places], [numbers[place] for place in places])
            yield list(zip(places, found, strict=True))

    def stream(self, source: Source) -> Iterator[str]:
        """The text of one target, piece by piece as its tokens come; raises UsageError for a beam search."""
        if self._beams is not None:
            raise UsageError("a beam search knows its target only at the end; stream with beam_size=1 or sample=True")
        if self._settings.n_best > 1:
            raise UsageError(f"n_best is {self._settings.n_best}, but a stream is of one target; leave it out")
        with reporting_tally() as tally:
            framed = self._encoder.encode([source], tally)
        draws = self._draws([0]) if self._settings.sample else None
        ids: list[int] = []
        text = shown = ""
        for chosen in choose(self._decoder, framed, self._sampling, draws):
            ids.append(chosen.ids[0])
            text = text_of(ids, self._tokenizer)
            if len(text) > len(shown) and text.startswith(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        if len(text) > len(shown):  # it ends inside a character
            yield text[len(shown) :]

    def _generate(self, sources: Sequence[Int32s], numbers: Sequence[int]) -> list[Generated]:
        if self._beams is None:
            draws = self._draws(numbers) if self._settings.sample else None
            return [self._finished(found) for found in choose_all(self._decoder, sources, self._sampling, draws)]
        return [
            self._finished(
                best_hypotheses(
                    trace,
                    end_id=self._decoder.end_id,
                    length_penalty=self._beams.length_penalty,
                    n_best=self._beams.n_best,
                ),
                trace if self._settings.traces else None,
            )
            for trace in search(self._decoder, sources, self._beams)
        ]

    def _finished(self, hypotheses: Sequence[Hypothesis], trace: Trace | None = None) -> Generated:
        candidates = (GeneratedText(text=text_of(one.ids, self._tokenizer), score=one.score) for one in hypotheses)
        return Generated(candidates=tuple(candidates), trace=trace)

    def _draws(self, numbers: Sequence[int]) -> list[list[np.ndarray]]:
        """The uniform numbers of each sample of each source."""
        length, seed = self._sampling.max_target_tokens, self._settings.seed
        samples = range(self._settings.n_best)
        return [
            [generator(seed, "generate", number, sample).random(length) for sample in samples] for number in numbers
        ]


def _choices(
    settings: GenerationSettings, max_target_tokens: int, tokenizer: Tokenizer
) -> tuple[SamplingSettings, BeamSettings | None]:
    """How one token after another is chosen, and how beams are searched where they are."""
    if settings.min_tokens >= max_target_tokens:
        raise UsageError(
            f"min_tokens is {settings.min_tokens}, but a target has at most {max_target_tokens} tokens with its end "
            "token; lower one or raise the other"
        )
    constraints = Constraints(
        min_tokens=settings.min_tokens,
        ban_ngrams=settings.ban_ngrams,
        ignored=ignored_tokens(settings.ban_ignore, tokenizer),
    )
    sampling = SamplingSettings(
        max_target_tokens=max_target_tokens,
        constraints=constraints,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
    )
    if settings.sample:
        return sampling, None
    if settings.beam_size == 1:
        if settings.n_best > 1:
            raise UsageError(f"n_best is {settings.n_best}, but one beam finds one target; raise beam_size, or sample")
        return sampling, None
    beams = BeamSettings(
        beam_size=_BEAMS if settings.beam_size is None else settings.beam_size,
        max_target_tokens=max_target_tokens,
        length_penalty=settings.length_penalty,
        n_best=settings.n_best,
        constraints=constraints,
        early_stop=not settings.traces,
    )
    return sampling, beams


def ignored_tokens(words: str, tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of tokens given with `|` between them; those in brackets are upper-cased; unknown ones are warned about."""
    names = [word.upper() if word.startswith("[") and word.endswith("]") else word for word in words.split("|") if word]
    unknown = [name for name in names if tokenizer.token_to_id(name) is None]
    if unknown:
        logger.warning(
            "%d of %d tokens whose n-grams may come again are not in the vocabulary (first: %r): they have no effect",
            *(len(unknown), len(names), unknown[0]),
        )
    found = (tokenizer.token_to_id(name) for name in names)
    return frozenset(token_id for token_id in found if token_id is not None)
