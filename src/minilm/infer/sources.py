"""Sources of generation: from texts and token lists to framed token ids.

In: a text, a list of tokens that are only looked up, or several of these that are joined by [SEP]. Out: framed ids.

What is too long is cut, unknown tokens become [UNK]: both are counted and told once, with the first place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minilm.errors import DataError
from minilm.tally import Tally
from minilm.text.pairs import Int32s
from minilm.text.parts import joined, look_up
from minilm.text.tokenizer import Tokenizer

Part = str | Sequence[str]
"""A text, or a list of tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One source: its parts, its id, and where it comes from, for messages."""

    parts: Sequence[Part]
    id: str
    place: str


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
    _tally: Tally = field(default_factory=Tally)

    def encode(self, sources: Sequence[Source]) -> list[Int32s]:
        """Framed ids of each source.

        Raises:
            DataError: a source has no token.
        """
        texts = [part for source in sources for part in source.parts if isinstance(part, str)]
        encoded = iter(self.tokenizer.encode(texts, special_tokens=False))
        return [
            self._framed(
                [
                    self._counted(next(encoded), source) if isinstance(part, str) else self._look_up(part, source)
                    for part in source.parts
                ],
                source,
            )
            for source in sources
        ]

    def report(self) -> None:
        """Warn about what was cut or unknown."""
        self._tally.report()

    def _counted(self, ids: Int32s, source: Source) -> Int32s:
        self._count_unknown([source.place] * int((ids == self.tokenizer.unk_id).sum()), of=len(ids))
        return ids

    def _look_up(self, tokens: Sequence[str], source: Source) -> Int32s:
        ids, unknown = look_up(tokens, self.tokenizer)
        self._count_unknown([f"{source.place}, {token!r:.60}" for token in unknown], of=len(tokens))
        return ids

    def _count_unknown(self, places: Sequence[str], *, of: int) -> None:
        self._tally.add("tokens are not in the vocabulary and were read as [UNK]", places, of=of)

    def _framed(self, parts: Sequence[Int32s], source: Source) -> Int32s:
        ids, length = joined(parts, separator_id=self.tokenizer.sep_id, room=self.room)
        if not len(ids):
            raise DataError(f"{source.place}: the source has no token, so there is nothing to generate from")
        is_cut = len(ids) < length
        loses_part = is_cut and len(parts) == 1 and self.tokenizer.sep_id in parts[0][len(ids) :]
        for what, found in {
            f"sources were longer than {self.room} tokens and were cut": is_cut,
            "sources lost a [SEP] and what follows it: given as fields of their own, only the first part is cut": (
                loses_part
            ),
        }.items():
            self._tally.add(what, [source.place] if found else [], of=1)
        return self.frame(ids)
