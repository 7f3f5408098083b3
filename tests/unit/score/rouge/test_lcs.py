"""Bit-parallel subsequences equal those of the explicit table, including tie-breaking."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.score.rouge.lcs import lcs_length, lcs_positions

words = st.lists(st.sampled_from("abcd"), max_size=12)


def written_out(first: list[str], second: list[str]) -> tuple[int, set[int]]:
    """The table of ROUGE-1.5.5 cell by cell, and its backtracking."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, other in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    i, j, found = len(first), len(second), set()
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.add(i)
        elif table[i - 1][j] >= table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return table[len(first)][len(second)], found


@pytest.mark.slow
@given(first=words, second=words)
@settings(max_examples=300, deadline=None)
def test_bits_equal_the_table(first, second):
    assert (lcs_length(first, second), lcs_positions(first, second)) == written_out(first, second)


def test_long_lists_need_no_more_than_one_integer_per_row():
    first = [str(number % 7) for number in range(500)]
    second = [str(number % 5) for number in range(400)]
    assert (lcs_length(first, second), lcs_positions(first, second)) == written_out(first, second)
