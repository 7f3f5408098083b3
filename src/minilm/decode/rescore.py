"""Selects the best hypotheses of a search, and rescores a stored search under other rules without decoding again.

In: the `Trace` of one example. Out: token ids and penalized scores, best first.

A hypothesis is a frame entry that is an end token, or any entry of the last usable frame: the first frame in which
every beam has ended, else the last frame. F frames, K beams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from minilm.decode.search_rules import length_divisors
from minilm.decode.traces import Trace
from minilm.errors import UsageError
from minilm.files.checked import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One target: its tokens, including the end token if any, and its penalized score."""

    ids: tuple[int, ...]
    score: float


@dataclass(frozen=True, kw_only=True)
class RescoreSettings(Settings):
    """How the score s of a hypothesis of n tokens is adjusted (spec 2.7); `length_penalty` overrides `alpha`.

    Attributes:
        alpha: s / ((5 + n) / 6) ** alpha.
        length_penalty: s + length_penalty * n, or with `expect` s - length_penalty * |n - expect|.
        expect: the expected length.
        swapped: swap end and padding tokens, as the original did until October 2021 (spec 10.1): the frame in which
            every beam has ended is dropped; if there is no such frame, only ended hypotheses count.
    """

    alpha: Annotated[float | None, Ge(-100), Le(100)] = None
    length_penalty: float | None = None
    expect: float | None = None
    swapped: bool = False

    def score(self, score: float, length: int) -> float:
        """The adjusted score; 0 and None leave it unchanged, as in the original."""
        if self.length_penalty:
            if self.expect:
                return score - self.length_penalty * math.fabs(length - self.expect)
            return score + self.length_penalty * length
        return score / math.pow((5 + length) / 6.0, self.alpha) if self.alpha else score


def best_hypotheses(trace: Trace, *, end_id: int, length_penalty: float, n_best: int = 1) -> list[Hypothesis]:
    """The `n_best` hypotheses by penalized score; ties go to the earlier one."""
    divisors = length_divisors(len(trace.ids), length_penalty)
    last = _first_frame(trace.ids, {end_id})
    entries = _entries(trace, {end_id}, last=last if trace.complete else None, frames=last + 1)
    ranked = sorted(((-score / divisors[frame], frame, beam) for frame, beam, score in entries))[:n_best]
    return [Hypothesis(ids=_tokens(trace, frame, beam), score=-cost) for cost, frame, beam in ranked]


def rescored(trace: Trace, settings: RescoreSettings, *, end_id: int, pad_id: int) -> tuple[int, ...]:
    """The best token ids under `settings`; empty if there is no candidate.

    Here padding also ends a hypothesis, and frames that contain only padding do not count.

    Raises:
        UsageError: the search stopped early, so the trace may lack the hypothesis that `settings` would choose.
    """
    if not trace.complete:
        raise UsageError("the search stopped early, so its trace cannot be rescored; decode with traces")
    ends = {end_id, pad_id}
    last = _first_frame(trace.ids, ends)
    has_all_ended = all(token in ends for token in trace.ids[last])
    while last >= 0 and all(token == (end_id if settings.swapped else pad_id) for token in trace.ids[last]):
        last -= 1
    # with `swapped`, the padding after the last frame counts as a frame, so that no unfinished hypothesis counts
    counts = None if settings.swapped and not has_all_ended else last
    entries = _entries(trace, ends, last=counts, frames=last + 1)
    real = [(settings.score(score, frame + 1), frame, beam) for frame, beam, score in entries if score < 0]
    if not real:
        return ()
    _, frame, beam = max(real, key=_earlier_wins_ties)
    return _tokens(trace, frame, beam)


def _earlier_wins_ties(entry: tuple[float, int, int]) -> tuple[float, int, int]:
    score, frame, beam = entry
    return score, -frame, -beam


def _first_frame(ids: Sequence[Sequence[int]], ends: AbstractSet[int]) -> int:
    """The first frame in which every beam has ended, else the last."""
    return next((number for number, frame in enumerate(ids) if all(token in ends for token in frame)), len(ids) - 1)


def _entries(
    trace: Trace, ends: AbstractSet[int], *, last: int | None, frames: int
) -> Iterator[tuple[int, int, float]]:
    """(frame, beam, score) of every hypothesis in the first `frames`; in frame `last` every entry is one."""
    for number in range(frames):
        for beam, token in enumerate(trace.ids[number]):
            if token in ends or number == last:
                yield number, beam, trace.scores[number][beam]


def _tokens(trace: Trace, frame: int, beam: int) -> tuple[int, ...]:
    """Follow the parents back to the first frame."""
    tokens = [trace.ids[frame][beam]]
    for number in range(frame, 0, -1):
        beam = trace.parents[number][beam]
        tokens.append(trace.ids[number - 1][beam])
    return tuple(reversed(tokens))
