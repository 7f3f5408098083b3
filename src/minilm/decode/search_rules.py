"""Rules of a search: banned n-grams, the length penalty, when a beam search may stop. Pure functions.

In: the tokens of one hypothesis, scores. Out: banned tokens, length-penalty divisors, whether the search may stop.

K beams; a frame is the state of the K beams after one step. Hypotheses in the first frame have length 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

PENALTY = 10000.0
"""Subtracted from the log-score of a banned token, and of every continuation of an ended hypothesis."""


def banned_tokens(sequence: Sequence[int], size: int, ignored: AbstractSet[int]) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens that `sequence` already contains.

    Empty if one of the last `size` - 1 tokens is ignored; an ignored token itself is never banned.
    """
    tail = sequence[len(sequence) - size + 1 :]
    if size < 1 or len(sequence) < size or not ignored.isdisjoint(tail):
        return []
    starts = range(len(sequence) - size + 1)
    banned = {sequence[start + size - 1] for start in starts if sequence[start : start + size - 1] == tail}
    return sorted(banned - ignored)


def length_divisors(max_tokens: int, length_penalty: float) -> list[float]:
    """((5 + n) / 6) ** length_penalty for lengths n = 1 … max_tokens; all 1 if the penalty is not positive."""
    if length_penalty <= 0:
        return [1.0] * max_tokens
    return [math.pow((5 + length) / 6.0, length_penalty) for length in range(1, max_tokens + 1)]


def may_stop(ended: Sequence[float], n_best: int, reachable: float, divisors_to_come: Sequence[float]) -> bool:
    """Whether no later frame can change the `n_best` hypotheses found so far. The test is exact, not a heuristic.

    `ended` holds the penalized scores of all ended hypotheses; `reachable` is the highest score among the beams that
    can continue. Proof of exactness:

    1. A step adds log-probabilities, bans and penalties, all of which are <= 0, and a rounded sum with a non-positive
       term never exceeds the other term. Every later entry descends from a current beam, so its score s satisfies
       s <= `reachable` <= 0.
    2. Its penalized score is s / d with d in `divisors_to_come`. For s <= 0 this is at most
       `reachable` / max(divisors_to_come): a larger divisor moves a negative number closer to zero. The maximum is
       taken over the divisors actually used, so no property of `pow` is needed.
    3. Hypotheses are ranked by penalized score; ties go to the earlier frame. `n_best` ended hypotheses at or above
       that bound therefore outrank every later entry.
    4. A current beam that has not ended would count only if this were the last frame. It is not, and any descendant
       that counts later is a later entry, to which 1 to 3 apply.
    """
    if not divisors_to_come or len(ended) < n_best:
        return False
    bound = reachable / max(divisors_to_come)
    return sorted(ended, reverse=True)[n_best - 1] >= bound
