"""The rules on tokens and lengths: n-gram bans by hand, divisors, when a search may stop."""

from __future__ import annotations

import pytest

from minilm.decode.search_rules import banned_tokens, length_divisors, may_stop
from minilm.decode.settings import GenerationSettings
from minilm.errors import UsageError


@pytest.mark.parametrize(
    ("sequence", "size", "ignored", "banned"),
    [
        ([1, 2, 3, 1, 2], 3, (), [3]),
        ([1, 2, 3, 1, 2, 4, 1, 2], 3, (), [3, 4]),
        ([1, 2, 3, 1, 2], 3, (2,), []),  # an ignored token in the tail: no ban
        ([1, 2, 3, 1, 2], 3, (3,), []),  # an ignored token is never banned
        ([1, 2, 3, 1, 2], 2, (), [3]),
        ([1, 1], 2, (), [1]),
        ([1, 2], 3, (), []),  # too short
        ([4, 5], 1, (), [4, 5]),
        ([4, 5], 1, (5,), [4]),
        ([1, 1, 1], 0, (), []),
        ([], 2, (), []),
    ],
)
def test_tokens_that_would_repeat_an_ngram(sequence, size, ignored, banned):
    assert banned_tokens(sequence, size, frozenset(ignored)) == banned


def test_the_end_is_banned_for_the_first_tokens():
    rules = GenerationSettings(min_tokens=2)
    assert [rules.bans_end(step) for step in (1, 2, 3)] == [True, True, False]


def test_divisors_of_the_length_penalty():
    assert length_divisors(3, 0.0) == length_divisors(3, -1.0) == [1.0, 1.0, 1.0]
    assert length_divisors(7, 1.0) == pytest.approx([1, 7 / 6, 8 / 6, 9 / 6, 10 / 6, 11 / 6, 2])


def test_a_search_may_stop_when_nothing_can_overtake():
    assert may_stop([-2.0], 1, -2.0, [1.0])  # the first of equals wins
    assert not may_stop([-2.0], 1, -1.9, [1.0])
    assert not may_stop([-2.0], 1, -3.9, [1.0, 2.0])  # a longer one can still reach -1.95
    assert may_stop([-2.0], 1, -4.0, [1.0, 2.0])
    assert not may_stop([-2.0], 2, -9.0, [1.0])  # the second best is open
    assert may_stop([-2.0, -8.0], 2, -9.0, [1.0])
    assert not may_stop([-9.5, -2.0], 2, -9.0, [1.0])  # the best is certain, but the second best can be overtaken
    assert not may_stop([-8.0, -9.5, -2.0], 3, -9.0, [1.0])
    assert not may_stop([], 1, -9.0, [1.0])
    assert not may_stop([-2.0], 1, -9.0, [])  # at the last frame every entry counts


@pytest.mark.parametrize("name", ["min_tokens", "ban_ngrams"])
def test_negative_numbers_are_rejected(name):
    with pytest.raises(UsageError, match=f"^{name} is -1; expected 0 or more$"):
        GenerationSettings(**{name: -1})
