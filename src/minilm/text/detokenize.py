"""Convert target token ids back to text, as UniLM does: join WordPieces, separate words by single spaces.

In: the ids of a hypothesis. Out: its text up to the end token; the words of a token list.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from minilm.text.tokenizer import Tokenizer
from minilm.text.vocabulary import SENTENCE_END

_CONTINUES = "##"
_RUN = 4  # a trailing run of this many equal punctuation marks is shortened


def truncated_at_end(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The ids before the first end token or padding."""
    ends = (tokenizer.sep_id, tokenizer.pad_id)
    return list(ids[: next((index for index, token in enumerate(ids) if token in ends), len(ids))])


def words_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The words of a target, joined from WordPieces.

    For other tokenizers, the words are the decoded text split at single spaces.
    """
    kept = truncated_at_end(ids, tokenizer)
    if not tokenizer.is_wordpiece:
        return tokenizer.decode(kept, special_tokens=True).strip().split(" ")
    return glued(map(tokenizer.id_to_token, kept))


def glued(tokens: Iterable[str]) -> list[str]:
    """Join WordPieces into words; a leading continuation piece is kept unchanged."""
    words: list[str] = []
    for token in tokens:
        if token.startswith(_CONTINUES) and words:
            words[-1] += token[len(_CONTINUES) :]
        else:
            words.append(token)
    return words


def text_of(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of a target on one line; a line break becomes ` [X_SEP] `."""
    return one_line(words_of(ids, tokenizer))


def one_line(words: Sequence[str]) -> str:
    """Words joined by single spaces; a line break becomes ` [X_SEP] `."""
    return f" {SENTENCE_END} ".join(" ".join(words).split("\n"))


def without_run_of_marks(words: list[str]) -> list[str]:
    """Shorten a trailing run of one punctuation mark, three at a time, while at least four remain."""
    while len(words) > _RUN and len(words[-1]) == 1 and unicodedata.category(words[-1]).startswith("P"):
        if words[-_RUN:] != [words[-1]] * _RUN:
            break
        words = words[: 1 - _RUN]
    return words
