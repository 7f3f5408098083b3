"""From tokens of a window back to characters of the context, in two ways.

In: a context, a window of it, the first and last token of an answer, counted from the first context token.
Out: the text of the answer and where it stands in the context.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from minilm.tasks.squad.windows import Window
from minilm.text.tokenizer import Tokenizer

FindText = Callable[[str, Window, int, int], tuple[str, int, int]]
"""(context, window, first, last) to text, first and past-the-last character."""

_SPACES = " \t\r\n\u202f"  # what parts the words of a context in the original; nothing else does
_WORD = re.compile(f"[^{_SPACES}]+")


def exact_text(context: str, window: Window, first: int, last: int) -> tuple[str, int, int]:
    """The characters that the tokens stand for, less spaces at the ends (some tokenizers count them in)."""
    offsets = window.offsets
    start, end = int(offsets[first, 0]), int(offsets[last, 1])
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    return text.strip(), start, start + len(text.strip())


def classic_text(tokenizer: Tokenizer) -> FindText:
    """The text as the original run_squad finds it, which has no offsets.

    It takes the whole words in which the tokens stand, normalizes them, looks there for the joined tokens and
    counts letters back to the words as they were. Where that fails, the words themselves are the answer.
    Spaces between words count as one, so in them the text can differ from the context.

    Raises:
        UsageError: the tokenizer is not WordPiece.
    """
    tokenizer.words("")
    token_of = cache(tokenizer.id_to_token)

    def find(context: str, window: Window, first: int, last: int) -> tuple[str, int, int]:
        offsets = window.offsets
        start, end = _whole_words(context, int(offsets[first, 0]), int(offsets[last, 1]))
        letters = [place for place in range(start, end) if context[place] not in _SPACES]
        ids = window.token_ids[window.first + first : window.first + last + 1]
        joined = " ".join(map(token_of, ids.tolist())).replace(" ##", "")
        begin, stop = _find_in_words(joined, tokenizer.words(context[start:end]), len(letters))
        start, end = letters[begin], letters[stop - 1] + 1
        return " ".join(_WORD.findall(context, start, end)), start, end

    return find


def _whole_words(context: str, start: int, end: int) -> tuple[int, int]:
    """Grow a span of characters to the words that it touches."""
    while start > 0 and context[start - 1] not in _SPACES:
        start -= 1
    while end < len(context) and context[end] not in _SPACES:
        end += 1
    return start, end


def _find_in_words(joined: str, words: Sequence[str], num_letters: int) -> tuple[int, int]:
    """First and past-the-last letter of the joined tokens among all letters; all of them when they do not align."""
    normalized = " ".join(words)
    at = normalized.find(joined)
    if at < 0 or len("".join(words)) != num_letters:
        return 0, num_letters
    begin = len(normalized[:at].replace(" ", ""))
    return begin, begin + len(joined.replace(" ", ""))
