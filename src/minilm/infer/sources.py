"""Sources of generation: from texts and token lists to framed token ids.

In: a text, a list of tokens that are only looked up, or several of these that are joined by [SEP]. Out: framed ids.

What is too long is cut, unknown tokens become [UNK]: both are counted and told once, with the first place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minilm.errors import DataError
from minilm.text.pairs import Int32s
from minilm.text.parts import joined, look_up
from minilm.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

Part = str | Sequence[str]
"""A text, or a list of tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One source: its parts, its id, and where it comes from, for messages."""

    parts: Sequence[Part]
    id: str
    place: str


@dataclass(kw_only=True)
class _Count:
    """How often something happened, and where first."""

    number: int = 0
    first: str = ""

    def add(self, place: str, number: int = 1) -> None:
        self.first = self.first or place
        self.number += number


@dataclass(kw_only=True)
class SourceEncoder:
    """Turns sources into framed ids and remembers what it had to change.

    Attributes:
        tokenizer: of the model.
        frame: puts the special tokens around ids.
        room: most tokens of a source without them.
    """

    tokenizer: Tokenizer
    frame: Callable[[Int32s], Int32s]
    room: int
    _seen: int = 0
    _cut: _Count = field(default_factory=_Count)
    _unknown: _Count = field(default_factory=_Count)
    _cut_parts: _Count = field(default_factory=_Count)

    def encode(self, sources: Sequence[Source]) -> list[Int32s]:
        """Framed ids of each source.

        Raises:
            DataError: a source has no token.
        """
        self._seen += len(sources)
        texts = [part for source in sources for part in source.parts if isinstance(part, str)]
        encoded = iter(self.tokenizer.encode(texts, special_tokens=False))
        framed = []
        for source in sources:
            ids = [
                self._counted(next(encoded), source) if isinstance(part, str) else self._look_up(part, source)
                for part in source.parts
            ]
            framed.append(self._framed(ids, source))
        return framed

    def report(self) -> None:
        """Warn about what was cut or unknown."""
        if self._cut.number:
            logger.warning(
                "%d of %d sources were longer than %d tokens and were cut (first: %s)",
                *(self._cut.number, self._seen, self.room, self._cut.first),
            )
        if self._cut_parts.number:
            logger.warning(
                "%d of them lost a [SEP] and what follows it (first: %s): given as fields of their own, only the first "
                "part is cut",
                *(self._cut_parts.number, self._cut_parts.first),
            )
        if self._unknown.number:
            logger.warning(
                "%d tokens are not in the vocabulary and were read as [UNK] (first: %s)",
                *(self._unknown.number, self._unknown.first),
            )

    def _counted(self, ids: Int32s, source: Source) -> Int32s:
        if unknown := int((ids == self.tokenizer.unk_id).sum()):
            self._unknown.add(source.place, unknown)
        return ids

    def _look_up(self, tokens: Sequence[str], source: Source) -> Int32s:
        ids, unknown = look_up(tokens, self.tokenizer)
        if unknown:
            self._unknown.add(f"{source.place}, {unknown[0]!r:.60}", len(unknown))
        return ids

    def _framed(self, parts: Sequence[Int32s], source: Source) -> Int32s:
        ids, length = joined(parts, separator_id=self.tokenizer.sep_id, room=self.room)
        if not len(ids):
            raise DataError(f"{source.place}: the source has no token, so there is nothing to generate from")
        if len(ids) < length:
            self._cut.add(source.place)
            if len(parts) == 1 and self.tokenizer.sep_id in parts[0][len(ids) :]:
                self._cut_parts.add(source.place)
        return self.frame(ids)
