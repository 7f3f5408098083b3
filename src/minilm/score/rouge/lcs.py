"""Longest common subsequences of words, many columns at a time: each row of the table is the bits of one integer.

In: two lists of words. Out: the length of their longest common subsequence, or which words of the first belong to
the one that ROUGE-1.5.5 finds. Source of the bit rows: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    *_, last = 0, *_rows(first, second)
    return last.bit_count()


def lcs_positions(first: Sequence[str], second: Sequence[str]) -> set[int]:
    """Return the places in `first` of one longest common subsequence.

    Where there are several, it is that of the Perl program: walking back from the end of both, equal words are
    taken, else the last word of `first` is dropped if that costs nothing, else that of `second`.
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
    """Yield for each word of `first` the row of the table: bit j is set where the length grows at word j."""
    places: dict[str, int] = {}
    for j, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << j
    every = (1 << len(second)) - 1
    row = every  # inverted: bits that are clear mark growth
    for word in first:
        here = row & places.get(word, 0)
        row = ((row + here) | (row - here)) & every
        yield row ^ every
