"""Maps tokens of a window back to characters of the context, by either of two methods.

In: a context, one of its windows, the first and last token of an answer, relative to the first context token.
Out: the text of the answer and its character span in the context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from minilm.tasks.squad.windows import Window
from minilm.tasks.squad.words import SPACES, WORD, widen_to_words
from minilm.text.tokenizer import Tokenizer

FindText = Callable[[str, Window, int, int], tuple[str, int, int]]
"""Maps (context, window, first, last) to the text and the offsets of its first and past-the-last character."""


def exact_text(context: str, window: Window, first: int, last: int) -> tuple[str, int, int]:
    """The characters covered by the tokens, without surrounding whitespace, which some tokenizers include."""
    offsets = window.offsets
    start, end = int(offsets[first, 0]), int(offsets[last, 1])
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    return text.strip(), start, start + len(text.strip())


def classic_text(tokenizer: Tokenizer) -> FindText:
    """The text as computed by the original run_squad, which has no offsets.

    It takes the complete words that contain the tokens, normalizes them, finds the joined tokens in the result, and
    maps them back to the original words by counting letters. If that fails, the answer is the complete words. Runs of
    whitespace become a single space, so the text can differ from the context.

    Raises:
        UsageError: the tokenizer is not WordPiece.
    """
    tokenizer.words("")
    token_of = cache(tokenizer.id_to_token)

    def find(context: str, window: Window, first: int, last: int) -> tuple[str, int, int]:
        offsets = window.offsets
        start, end = widen_to_words(context, int(offsets[first, 0]), int(offsets[last, 1]))
        letters = [index for index in range(start, end) if context[index] not in SPACES]
        ids = window.token_ids[window.first + first : window.first + last + 1]
        joined = " ".join(map(token_of, ids.tolist())).replace(" ##", "")
        begin, stop = _find_in_words(joined, tokenizer.words(context[start:end]), len(letters))
        start, end = letters[begin], letters[stop - 1] + 1
        return " ".join(WORD.findall(context, start, end)), start, end

    return find


def _find_in_words(joined: str, words: Sequence[str], num_letters: int) -> tuple[int, int]:
    """First and past-the-last letter of the joined tokens; all letters if they cannot be aligned."""
    normalized = " ".join(words)
    at = normalized.find(joined)
    if at < 0 or len("".join(words)) != num_letters:
        return 0, num_letters
    begin = len(normalized[:at].replace(" ", ""))
    return begin, begin + len(joined.replace(" ", ""))
