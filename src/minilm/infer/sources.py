"""Sources of generation: from texts and token lists to framed token ids.

In: a text, a list of vocabulary tokens, or several of these joined by [SEP]. Out: framed ids.

Long sources are truncated and unknown tokens become [UNK]; both are counted and reported once, with the first location.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from minilm.errors import DataError, UsageError
from minilm.infer.containers import items_of
from minilm.tally import Tally
from minilm.tasks.seq2seq.parts import join_parts, look_up
from minilm.text.pairs import Int32s
from minilm.text.tokenizer import Tokenizer

_UNKNOWN = "tokens are not in the vocabulary and were read as [UNK]"
_LOST_PART = (
    "sources lost a [SEP] and what follows it: pass the parts as separate fields, and only the first is truncated"
)

Part = str | Sequence[str]
"""A text, or a list of tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSource:
    """One source: its parts, its id, and where it came from, for messages."""

    parts: Sequence[Part]
    id: str
    location: str


@dataclass(frozen=True, kw_only=True)
class SourceEncoder:
    """Turns sources into framed ids.

    Attributes:
        tokenizer: of the model.
        frame: adds the special tokens around ids.
        room: max tokens of a source, special tokens not included.
    """

    tokenizer: Tokenizer
    frame: Callable[[Int32s], Int32s]
    room: int

    def encode(self, sources: Sequence[GenerationSource], tally: Tally) -> list[Int32s]:
        """Framed ids of each source; `tally` counts what was truncated or is unknown.

        Raises:
            DataError: a source has no tokens.
        """
        texts = [part for source in sources for part in source.parts if isinstance(part, str)]
        encoded = iter(self.tokenizer.encode(texts, special_tokens=False))
        framed = []
        for source in sources:
            ids = [
                self._counted(next(encoded), source, tally)
                if isinstance(part, str)
                else self._look_up(part, source, tally)
                for part in source.parts
            ]
            framed.append(self._framed(ids, source, tally))
        return framed

    def _counted(self, ids: Int32s, source: GenerationSource, tally: Tally) -> Int32s:
        tally.add(_UNKNOWN, [source.location] * int((ids == self.tokenizer.unk_id).sum()), of=len(ids))
        return ids

    def _look_up(self, tokens: Sequence[str], source: GenerationSource, tally: Tally) -> Int32s:
        ids, unknown = look_up(tokens, self.tokenizer)
        tally.add(_UNKNOWN, [f"{source.location}, {token!r:.60}" for token in unknown], of=len(tokens))
        return ids

    def _framed(self, parts: Sequence[Int32s], source: GenerationSource, tally: Tally) -> Int32s:
        ids, length = join_parts(parts, separator_id=self.tokenizer.sep_id, room=self.room)
        if not len(ids):
            raise DataError(f"{source.location}: the source has no token, so there is nothing to generate from")
        is_truncated = len(ids) < length
        loses_part = is_truncated and len(parts) == 1 and self.tokenizer.sep_id in parts[0][len(ids) :]
        what = f"sources were longer than {self.room} tokens and were truncated"
        tally.add(what, [source.location] if is_truncated else [], of=1)
        tally.add(_LOST_PART, [source.location] if loses_part else [], of=1)
        return self.frame(ids)


def generation_sources(texts: Iterable[Part]) -> Iterator[GenerationSource]:
    """Texts as sources; raises UsageError for an item that is empty, or neither a text nor a list of tokens."""
    for number, part in enumerate(parts_of(texts, "generate")):
        if not (part.strip() if isinstance(part, str) else part):
            raise UsageError(f"text {number} is empty, so there is nothing to generate from; remove it")
        yield GenerationSource(parts=[part], id=str(number), location=f"text {number}")


def parts_of(texts: Iterable[Part], what: str) -> Iterator[Part]:
    """Texts and lists of tokens, for the method `what`; raises UsageError for an item that is neither."""
    for number, text in enumerate(items_of(texts, what)):
        if not isinstance(text, str | list | tuple):
            raise UsageError(f"text {number}: found {type(text).__name__}; {what} expects texts or token lists")
        if not isinstance(text, str) and not all(isinstance(token, str) for token in text):
            raise UsageError(f"text {number} contains a non-string; {what} expects texts or token lists")
        yield text if isinstance(text, str) else list(text)
