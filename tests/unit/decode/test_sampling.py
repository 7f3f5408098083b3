"""Sampling tokens: correct shares, filters, and impossible numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minilm.decode.sampling import choose_all, draw
from minilm.decode.settings import GenerationSettings
from minilm.errors import UsageError

CHANCES = torch.tensor([0.1, 0.4, 0.0, 0.2, 0.3])


def shares(settings, count=4000):
    """How often each token is drawn with evenly spaced numbers."""
    rows = CHANCES.log().repeat(count, 1)
    drawn = draw(rows, [(place + 0.5) / count for place in range(count)], settings)
    return (drawn.bincount(minlength=5) / count).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.0, 0.2, 0.3]),
        ({"top_k": 2}, [0.0, 4 / 7, 0.0, 0.0, 3 / 7]),
        ({"top_k": 99}, [0.1, 0.4, 0.0, 0.2, 0.3]),
        ({"top_p": 0.65}, [0.0, 4 / 7, 0.0, 0.0, 3 / 7]),
        ({"top_p": 0.75}, [0.0, 4 / 9, 0.0, 2 / 9, 3 / 9]),
        ({"top_p": 0.01}, [0.0, 1.0, 0.0, 0.0, 0.0]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 0.0, 4 / 30, 9 / 30]),
        ({"temperature": 1e-4}, [0.0, 1.0, 0.0, 0.0, 0.0]),
        ({"top_k": 3, "top_p": 0.7}, [0.0, 4 / 7, 0.0, 0.0, 3 / 7]),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(options, expected):
    assert shares(GenerationSettings(sample=True, **options)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.9}])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(number, options):
    [token] = draw(CHANCES.log()[None], [number], GenerationSettings(sample=True, **options)).tolist()
    assert CHANCES[token] > 0


def test_each_target_has_its_own_numbers(decoder):
    sources = [decoder.frame(np.array(ids, dtype=np.int32)) for ids in ([7, 8], [9], [10, 11, 12])]
    draws = [[np.random.default_rng([number, sample]).random(9) for sample in range(3)] for number in range(3)]
    settings = GenerationSettings(max_target_tokens=9)
    together = choose_all(decoder, sources, settings, draws)
    assert len({hypothesis.ids for targets in together for hypothesis in targets}) == 9
    for number in range(3):
        assert [h.ids for h in choose_all(decoder, [sources[number]], settings, [draws[number]])[0]] == [
            h.ids for h in together[number]
        ]


def test_targets_end_with_the_end_token_or_padding_and_not_too_soon(decoder):
    decoder._head.bias[:5] = torch.tensor([6.0, -99.0, -99.0, 6.0, -99.0])  # both end tokens are most probable
    source = decoder.frame(np.array([7], dtype=np.int32))
    draws = [[np.random.default_rng(sample).random(12) for sample in range(20)]]
    targets = choose_all(decoder, [source], GenerationSettings(max_target_tokens=12, min_tokens=0), draws)[0]
    assert {target.ids[-1] for target in targets} == {0, 3}
    assert all(not {0, 3} & set(target.ids[:-1]) for target in targets)
    late = GenerationSettings(max_target_tokens=12, min_tokens=5)
    assert all(3 not in target.ids[:5] for target in choose_all(decoder, [source], late, draws)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; expected more than 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1; expected 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0; expected more than 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"max_target_tokens": 0}, "max_target_tokens is 0; expected 1 or more"),
    ],
)
def test_numbers_that_leave_nothing_to_draw_are_rejected(options, message):
    with pytest.raises(UsageError, match=message):
        GenerationSettings(sample=True, **options)
