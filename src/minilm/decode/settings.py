"""How text is generated: one group of settings for the Python API, the command line and the decoder.

In: values from a caller or from flags. Out: `GenerationSettings`, checked. A field with a `Flag` is also one of
`minilm generate`, so that a new option is a field here and the code that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from minilm.errors import SettingsError
from minilm.files.checked import Count, PositiveInt, Settings


@dataclass(frozen=True)
class Flag:
    """In the annotation of a field: the help text of its flag; `shown` replaces the default in it."""

    help: str
    metavar: str | None = None
    shown: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(Settings):
    """How to generate.

    Attributes:
        beam_size: beams of the search; 1 takes the most probable token each time.
        max_target_tokens: max tokens of a target with its end token; None: what the model was trained with.
        min_tokens: tokens before the end token may come.
        length_penalty: scores are divided by ((5 + n) / 6) ** length_penalty where it is positive.
        ban_ngrams: no n-gram of this length comes twice in a target; 0 for no such ban.
        ban_ignore: tokens whose n-grams may come again, with `|` between them; those in brackets are upper-cased.
        sample: draw tokens at random instead of searching.
        top_k: draw among the k most probable tokens; 0 for all.
        top_p: draw among the fewest tokens that are this probable together.
        temperature: below 1 the probable tokens become more so.
        seed: what is drawn depends on it, the number of the source and nothing else.
        n_best: how many targets of each source, best first; the early stop of a search waits until they are certain.
        batch_tokens: tokens kept in memory at once: of the sources, and of all beams' targets.
        traces: keep what the search saw, to score it again; the search then never stops early.
    """

    beam_size: Annotated[PositiveInt, Flag("Beams of the search; 1 is greedy.")] = 5
    max_target_tokens: Annotated[PositiveInt | None, Flag("Max tokens of a target.", shown="of the model")] = None
    min_tokens: Annotated[Count, Flag("Tokens before a target may end.")] = 1
    length_penalty: Annotated[
        float, Ge(0), Le(100), Flag("Scores are divided by ((5 + tokens) / 6) ** this; 0 for none.")
    ] = 0.0
    ban_ngrams: Annotated[Count, Flag("No N tokens in a row come twice in a target; 0: no ban.", metavar="N")] = 0
    ban_ignore: Annotated[str, Flag('Tokens that may repeat, such as ".|[X_SEP]".', metavar="TOKENS")] = ""
    sample: Annotated[bool, Flag("Draw tokens at random instead of searching.")] = False
    top_k: Annotated[Count, Flag("Draw among the K most probable tokens; 0 for all.")] = 0
    top_p: Annotated[float, Gt(0), Le(1), Flag("Draw among the fewest tokens that are this probable together.")] = 1.0
    temperature: Annotated[float, Gt(0), Flag("Below 1 the probable tokens become more so.")] = 1.0
    seed: Annotated[int, Flag("Of what is drawn.")] = 0
    n_best: Annotated[PositiveInt, Flag("Targets of each source, best first (in .jsonl).")] = 1
    batch_tokens: Annotated[PositiveInt, Flag("Tokens in memory at once, of sources and all beams' targets.")] = 16384
    traces: bool = False

    def __post_init__(self) -> None:
        """Raise SettingsError also for what would be ignored."""
        super().__post_init__()
        unread = ("beam_size", "length_penalty") if self.sample else ("top_k", "top_p", "temperature", "seed")
        for name in unread:
            if getattr(self, name) != getattr(GenerationSettings, name):
                other = "without sample" if self.sample else "with sample"
                raise SettingsError(f"{name} has a meaning only {other}; leave one of the two out")
        if self.ban_ignore and not self.ban_ngrams:
            raise SettingsError("ban_ignore has a meaning only with ban_ngrams; give both or none")
        if self.beam_size == 1 and self.length_penalty:
            raise SettingsError("length_penalty has a meaning only for several beams; leave it out or raise beam_size")
        if self.traces and (self.sample or self.beam_size == 1):
            raise SettingsError("traces are of a beam search; use a beam_size of 2 or more, without sample")
        if self.n_best > self.beam_size and not self.sample:
            what = "one beam finds one target" if self.beam_size == 1 else f"{self.beam_size} beams find as many"
            raise SettingsError(f"n_best is {self.n_best}, but {what}; raise beam_size, or sample")

    @property
    def num_steps(self) -> int:
        """Steps of decoding: the max tokens of a target, once they are known."""
        assert self.max_target_tokens is not None, "given, or taken from the model"
        return self.max_target_tokens

    def bans_end(self, step: int) -> bool:
        """Whether the end token is still banned at `step`, counted from 1."""
        return step <= self.min_tokens
