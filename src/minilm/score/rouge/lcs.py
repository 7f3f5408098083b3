"""Bit-parallel longest common subsequence of words: each row of the table is the bits of one integer.

In: two lists of words. Out: the length of their longest common subsequence, or which words of the first are in
the one that ROUGE-1.5.5 finds. Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    *_, last = 0, *_rows(first, second)
    return last.bit_count()


def lcs_positions(first: Sequence[str], second: Sequence[str]) -> set[int]:
    """Return the positions in `first` of one longest common subsequence.

    Ties are broken as in the Perl program: backtracking from both ends, equal words are taken; otherwise the last
    word of `first` is dropped if that does not shorten the subsequence, else the last word of `second`.
    """
    rows = [0, *_rows(first, second)]
    found: set[int] = set()
    i, j = len(first), len(second)
    while i and j:
        seen = (1 << j) - 1
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.add(i)
        elif (rows[i - 1] & seen).bit_count() == (rows[i] & seen).bit_count():
            i -= 1
        else:
            j -= 1
    return found


def _rows(first: Sequence[str], second: Sequence[str]) -> Iterator[int]:
    """Yield the table row of each word of `first`: bit j is set where the length increases at word j."""
    positions: dict[str, int] = {}
    for j, word in enumerate(second):
        positions[word] = positions.get(word, 0) | 1 << j
    every = (1 << len(second)) - 1
    row = every  # inverted: clear bits mark an increase
    for word in first:
        here = row & positions.get(word, 0)
        row = ((row + here) | (row - here)) & every
        yield row ^ every
