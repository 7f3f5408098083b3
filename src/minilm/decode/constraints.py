"""What a target may not hold, and when a beam search may stop: pure rules on numbers and token ids.

In: the tokens of one hypothesis, scores. Out: banned tokens, divisors of the length penalty, a yes or no.

K beams, a frame is what the K beams hold after one step; the first frame has length 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

PENALTY = 10000.0
"""Taken off the log-score of what is banned, and off everything that goes on behind an end token."""


def banned_tokens(sequence: Sequence[int], size: int, ignored: AbstractSet[int]) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens which `sequence` already holds.

    None when one of the last `size` - 1 tokens is ignored; an ignored token itself is never banned.
    """
    tail = sequence[len(sequence) - size + 1 :]
    if size < 1 or len(sequence) < size or not ignored.isdisjoint(tail):
        return []
    starts = range(len(sequence) - size + 1)
    banned = {sequence[start + size - 1] for start in starts if sequence[start : start + size - 1] == tail}
    return sorted(banned - ignored)


def length_divisors(max_tokens: int, length_penalty: float) -> list[float]:
    """((5 + n) / 6) ** length_penalty for the lengths n = 1 … max_tokens; ones where the penalty is not positive."""
    if length_penalty <= 0:
        return [1.0] * max_tokens
    return [math.pow((5 + length) / 6.0, length_penalty) for length in range(1, max_tokens + 1)]


def may_stop(ended: Sequence[float], n_best: int, reachable: float, divisors_to_come: Sequence[float]) -> bool:
    """Whether no later frame can change the `n_best` hypotheses found so far; exact, not a guess.

    `ended` are the penalised scores of all hypotheses that have ended, `reachable` is the highest score among the
    beams that can go on. Proof that nothing is lost:

    1. A step adds log-probabilities, bans and penalties, none of which is positive, and rounding a sum with a
       number that is not positive never ends above the other number. So every later entry, whose ancestors are
       among today's beams, has a score s <= `reachable` <= 0.
    2. Its penalised score is s / d with a divisor d of `divisors_to_come`. For s <= 0 that is at most
       `reachable` / max(divisors_to_come): a greater divisor brings a negative number nearer to zero. Taking the
       maximum of the very numbers that would be used needs no property of `pow`.
    3. The order is by penalised score, and of equal ones the earlier frame comes first. `n_best` ended
       hypotheses at or above that bound therefore stay ahead of everything that is still to come.
    4. What the search holds today and has not ended counts only if this were its last frame. It is not, and
       when it comes to count it is a later entry, for which 1 to 3 hold.
    """
    if not divisors_to_come or len(ended) < n_best:
        return False
    bound = reachable / max(divisors_to_come)
    return sorted(ended, reverse=True)[n_best - 1] >= bound
