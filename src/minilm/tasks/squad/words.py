"""Words of a context, as the original run_squad counts them: runs of characters between five kinds of space.

In: a context and character offsets. Out: offsets.
"""

from __future__ import annotations

import re

SPACES = " \t\r\n\u202f"
"""The only characters that separate words of a context in the original."""
WORD = re.compile(f"[^{SPACES}]+")


def widen_to_words(context: str, start: int, end: int) -> tuple[int, int]:
    """Extend a character span to word boundaries."""
    while start > 0 and context[start - 1] not in SPACES:
        start -= 1
    while end < len(context) and context[end] not in SPACES:
        end += 1
    return start, end


def find_nearby(context: str, text: str, start: int) -> tuple[int, int] | None:
    """Span of the first occurrence of `text` in the words that its characters from `start` on touch, else None.

    This is where the original looks for an answer, so an offset may be a little off. A space belongs to the word
    before it. Words are compared; the spaces between them may differ.
    """
    words = text.split()
    if not words or not 0 <= start < len(context):
        return None
    first = len(context[: start + 1].rstrip(SPACES))
    last = len(context[: start + len(text)].rstrip(SPACES))
    begin, end = widen_to_words(context, max(first - 1, 0), last)
    found = re.compile(r"\s+".join(map(re.escape, words))).search(context, begin, end)
    return found.span() if found else None
