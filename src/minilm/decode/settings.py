"""Generation settings, shared by the Python API, the command line and the decoder.

In: values from a caller or from flags. Out: validated `GenerationSettings`. A field annotated with `Flag` is also a
flag of `minilm generate`, so a new option needs only a field here and the code that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from minilm.errors import SettingsError
from minilm.files.checked import Count, PositiveInt, Settings


@dataclass(frozen=True)
class Flag:
    """Annotation of a field: the help text of its flag; `shown` replaces the displayed default."""

    help: str
    metavar: str | None = None
    shown: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(Settings):
    """Generation settings.

    Attributes:
        beam_size: number of beams; 1 is greedy decoding.
        max_target_tokens: max tokens of a target, including its end token; None: the value the model was trained with.
        min_tokens: min tokens before the end token.
        length_penalty: scores are divided by ((5 + n) / 6) ** length_penalty; 0 disables it.
        ban_ngrams: no n-gram of this length occurs twice in a target; 0 disables it.
        ban_ignore: tokens whose n-grams may repeat, separated by `|`; those in brackets are upper-cased.
        sample: sample tokens at random instead of running a beam search.
        top_k: sample from the k most probable tokens; 0 for all.
        top_p: sample from the smallest set of most probable tokens whose probabilities sum to at least top_p.
        temperature: values below 1 sharpen the distribution, values above 1 flatten it.
        seed: random seed; samples depend only on it and on the index of the source.
        n_best: targets returned per source, best first; beam search does not stop early before they are final.
        batch_tokens: max tokens in memory at once, summed over the sources and the targets of all beams.
        traces: record score traces for rescoring; disables early stopping.
    """

    beam_size: Annotated[PositiveInt, Flag("Number of beams; 1 is greedy decoding.")] = 5
    max_target_tokens: Annotated[PositiveInt | None, Flag("Max tokens of a target.", shown="the model's")] = None
    min_tokens: Annotated[Count, Flag("Min tokens of a target.")] = 1
    length_penalty: Annotated[
        float, Ge(0), Le(100), Flag("Divide scores by ((5 + tokens) / 6) ** this; 0 disables it.")
    ] = 0.0
    ban_ngrams: Annotated[Count, Flag("Ban repeated N-grams within a target; 0 disables it.", metavar="N")] = 0
    ban_ignore: Annotated[str, Flag('Tokens whose N-grams may repeat, such as ".|[X_SEP]".', metavar="TOKENS")] = ""
    sample: Annotated[bool, Flag("Sample tokens instead of running a beam search.")] = False
    top_k: Annotated[Count, Flag("Sample from the K most probable tokens; 0 for all.")] = 0
    top_p: Annotated[float, Gt(0), Le(1), Flag("Sample from the smallest set of tokens with this probability.")] = 1.0
    temperature: Annotated[float, Gt(0), Flag("Values below 1 sharpen the distribution.")] = 1.0
    seed: Annotated[int, Flag("Random seed of sampling.")] = 0
    n_best: Annotated[PositiveInt, Flag("Targets per source, best first; not in .txt.")] = 1
    batch_tokens: Annotated[PositiveInt, Flag("Max tokens in memory at once, sources plus targets of all beams.")] = (
        16384
    )
    traces: bool = False

    def __post_init__(self) -> None:
        """Raise SettingsError also for settings that would be ignored."""
        super().__post_init__()
        unread = ("beam_size", "length_penalty") if self.sample else ("top_k", "top_p", "temperature", "seed")
        for name in unread:
            if getattr(self, name) != getattr(GenerationSettings, name):
                raise SettingsError(
                    f"{name} applies only without sample; omit one of the two"
                    if self.sample
                    else f"{name} applies only with sample; set sample or omit {name}"
                )
        if self.ban_ignore and not self.ban_ngrams:
            raise SettingsError("ban_ignore applies only with ban_ngrams; set both or neither")
        if self.beam_size == 1 and self.length_penalty:
            raise SettingsError("length_penalty applies only to beam search; omit it or raise beam_size")
        if self.traces and (self.sample or self.beam_size == 1):
            raise SettingsError("traces require a beam search; use a beam_size of at least 2, without sample")
        if self.n_best > self.beam_size and not self.sample:
            raise SettingsError(
                f"n_best is {self.n_best}, expected at most beam_size ({self.beam_size}); raise beam_size or use sample"
            )

    @property
    def num_steps(self) -> int:
        """Number of decoding steps: `max_target_tokens`, once resolved."""
        assert self.max_target_tokens is not None, "set by the caller or taken from the model"
        return self.max_target_tokens

    def bans_end(self, step: int) -> bool:
        """Whether the end token is still banned at `step`, counted from 1."""
        return step <= self.min_tokens
