"""Words as tokens: where each word of a sentence begins among the tokens that a model reads.

In: sentences as lists of words, or plain texts; a tokenizer. Out: framed token ids, and for each word the row of its
first token, whose scores are those of the word.

A plain text is split into words by its tokens, so that the model reads exactly what the tokenizer makes of the text:
WordPiece marks the pieces that continue a word (words end at whitespace and punctuation); pieces of other tokenizers do
not, there a word begins after whitespace. These are the words of transformers' pipeline.

N tokens of one sentence, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minilm.tally import Tally
from minilm.text.pairs import Int32s
from minilm.text.tokenizer import Tokenizer

NO_TOKEN = -1
"""First token of a word that has none, or none that fits."""
WITHOUT_TOKENS = "words consist of characters that the tokenizer drops; they are tagged O"


@dataclass(frozen=True, kw_only=True, slots=True)
class FramedWords:
    """A sentence as a model reads it.

    Attributes:
        text: the plain text, or the words joined by spaces.
        spans: first character of each word in `text` and the character after its last one, `[W, 2]`.
        token_ids: with the special tokens, `[N]` int32.
        first: row of the first token of each word, `[W]`; `NO_TOKEN` if it has none.
    """

    text: str
    spans: Int32s
    token_ids: Int32s
    first: Int32s

    @property
    def words(self) -> list[str]:
        """The words."""
        return [self.text[start:end] for start, end in self.spans.tolist()]


@dataclass(frozen=True, kw_only=True)
class WordFramer:
    """Turns sentences into tokens, truncated to `max_tokens`.

    `tally` counts the words that the model does not read, those beyond `max_tokens` and those without a token, with the
    locations of their sentences.
    """

    tokenizer: Tokenizer
    max_tokens: int
    tally: Tally

    def parts(self, parts: Sequence[str | Sequence[str]], locations: Sequence[str]) -> list[FramedWords]:
        """Frame plain texts and lists of words, in order."""
        texts = {number: part for number, part in enumerate(parts) if isinstance(part, str)}
        lists = {number: part for number, part in enumerate(parts) if not isinstance(part, str)}
        found = self.texts(list(texts.values()), [locations[number] for number in texts])
        found += self.words(list(lists.values()), [locations[number] for number in lists])
        framed = dict(zip((*texts, *lists), found, strict=True))
        return [framed[number] for number in range(len(parts))]

    def words(self, sentences: Sequence[Sequence[str]], locations: Sequence[str]) -> list[FramedWords]:
        """Frame lists of words; each word is tokenized on its own."""
        framed = []
        for words, (ids, owners), where in zip(
            sentences, self.tokenizer.encode_words(sentences), locations, strict=True
        ):
            first = np.full(len(words), NO_TOKEN, dtype=np.int32)
            owned, rows = np.unique(owners, return_index=True)  # the first token of each word that has one
            first[owned] = rows
            self._count(WITHOUT_TOKENS, first == NO_TOKEN, where)
            lengths = np.array([len(word) for word in words], dtype=np.int32)
            starts = np.cumsum(lengths + 1, dtype=np.int32) - lengths - 1
            framed.append(self._frame(" ".join(words), np.stack([starts, starts + lengths], axis=1), ids, first, where))
        return framed

    def texts(self, texts: Sequence[str], locations: Sequence[str]) -> list[FramedWords]:
        """Frame plain texts; their words are those of their tokens."""
        split = self._wordpiece_words if self.tokenizer.is_wordpiece else _spaced_words
        framed = []
        for text, (ids, offsets), where in zip(
            texts, self.tokenizer.encode_with_offsets(texts), locations, strict=True
        ):
            first, spans = split(text, ids, offsets)
            framed.append(self._frame(text, spans, ids, first, where))
        return framed

    def _frame(self, text: str, spans: Int32s, ids: Int32s, first: Int32s, where: str) -> FramedWords:
        """Add the special tokens to what fits; `first` counts without them."""
        before, after = self.tokenizer.before, np.array([self.tokenizer.sep_id], dtype=np.int32)
        room = self.max_tokens - len(before) - 1
        lost = first >= room
        self._count(
            f"words were beyond the first {self.max_tokens} tokens of their text; they are tagged O", lost, where
        )
        return FramedWords(
            text=text,
            spans=spans,
            token_ids=np.concatenate([before, ids[:room], after]),
            first=np.where(lost | (first == NO_TOKEN), NO_TOKEN, first + len(before)).astype(np.int32),
        )

    def _count(self, what: str, words: NDArray[np.bool_], where: str) -> None:
        """Add the words of a sentence for which `words` is true, `[W]`."""
        number = int(words.sum())
        self.tally.add(what, [where] if number else [], of=len(words), count=number)

    def _wordpiece_words(self, _: str, ids: Int32s, offsets: Int32s) -> tuple[Int32s, Int32s]:
        """First token `[W]` and characters `[W, 2]` of each word: a piece that continues no word begins one."""
        first = np.flatnonzero(~self.tokenizer.is_continuation[ids]).astype(np.int32)
        last = np.append(first[1:], len(ids))[: len(first)] - 1
        return first, np.stack([offsets[first, 0], offsets[last, 1]], axis=1)


def _spaced_words(text: str, ids: Int32s, offsets: Int32s) -> tuple[Int32s, Int32s]:
    """The same for other tokens, whose characters may begin with the whitespace before them, or be nothing else."""
    first: list[int] = []
    spans: list[tuple[int, int]] = []
    for row, (start, end) in enumerate(offsets.tolist()):
        kept = start + len(text[start:end]) - len(text[start:end].lstrip())
        after_space = start == 0 or text[start - 1].isspace() or kept > start
        begin, stop = spans[-1] if spans else (0, 0)
        if spans and (
            begin == stop or start < stop or not after_space
        ):  # after whitespace alone, or within a character
            spans[-1] = (kept if begin == stop else begin, end)
        else:
            first.append(row)
            spans.append((kept, end))
    kept_words = [index for index, (start, end) in enumerate(spans) if start < end]
    return (
        np.array([first[index] for index in kept_words], dtype=np.int32),
        np.array([spans[index] for index in kept_words], dtype=np.int32).reshape(-1, 2),
    )
