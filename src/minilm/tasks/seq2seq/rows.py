"""Read pairs of source and target for sequence-to-sequence tasks.

In: .jsonl, .json (one object per line), .csv, .tsv (each optionally .gz) or .parquet files; a field is a text, or a
list of tokens, which are only looked up. Out: `Pairs` of token ids without special tokens, truncated to the limits of
a sequence.

Rows with an empty source field or target are skipped; these, truncated texts and unknown tokens are counted and
reported as warnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError
from minilm.files.rows import Row, read_rows
from minilm.tally import Tally
from minilm.tasks.seq2seq.parts import join_parts, look_up
from minilm.tasks.seq2seq.settings import Seq2SeqSettings
from minilm.text.detokenize import glued
from minilm.text.tokenizer import Tokenizer
from minilm.text.vocabulary import NLG_RENAMES, SENTENCE_END

Ids = NDArray[np.int32]
_NAMED_BY = "task.source and task.target"
_WINDOW = 1024  # rows tokenized together
_EMPTY = "rows without source or target were skipped"
_UNLISTED = "listed tokens are not in the vocabulary and were read as [UNK]"
_UNREADABLE = "tokens of texts are not in the vocabulary and were read as [UNK]"
_MAX_UNKNOWN = 0.5  # share of looked-up tokens; above it they come from another vocabulary


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """n pairs of token ids without special tokens, none empty, and their reference texts.

    Attributes:
        sources: ids of each source, `[S]` int32.
        targets: ids of each target, `[M]` int32.
        references: the whole target of each pair as text.
        locations: file and line of each pair.
    """

    sources: Sequence[Ids]
    targets: Sequence[Ids]
    references: Sequence[str]
    locations: Sequence[str]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.sources)


def load_nlg_tokenizer(path: Path, *, lowercase: bool | None = None) -> Tokenizer:
    """A tokenizer whose unused WordPiece slots have UniLM's names, such as [X_SEP]; ids do not change.

    A vocabulary that already has [X_SEP] is left unchanged.

    Raises:
        DataError: as for `Tokenizer.load`.
    """
    plain = Tokenizer.load(path, lowercase=lowercase)
    names = {old: new for old, new in NLG_RENAMES.items() if plain.token_to_id(old) is not None}
    is_named = plain.token_to_id(SENTENCE_END) is not None
    return plain if is_named or not names else Tokenizer.load(path, lowercase=lowercase, renames=names)


def read_pairs(paths: Sequence[Path | str], tokenizer: Tokenizer, settings: Seq2SeqSettings) -> Pairs:
    """Read and tokenize the pairs of files, in order.

    The end of a text that is too long is truncated; for joined source fields, the end of the first. A line break in a
    target ends a sentence: it becomes [X_SEP] if the tokenizer has that token.

    Args:
        paths: the files.
        tokenizer: tokenizes texts and looks up tokens.
        settings: names of the fields, and their max lengths.

    Raises:
        UsageError: a path is missing or of an unknown kind.
        DataError: a row cannot be read, lacks a field or has one of the wrong type, most tokens are unknown, or a file
            has no pair; names the line.
        SystemProblem: a file cannot be read.
    """
    reading = _Reading(tokenizer=tokenizer, settings=settings)
    for path in paths:
        reading.read(str(path))
    return reading.finish()


@dataclass(kw_only=True)
class _Reading:
    """What has been read so far, and what was skipped, truncated or unknown."""

    tokenizer: Tokenizer
    settings: Seq2SeqSettings
    sources: list[Ids] = field(default_factory=list)
    targets: list[Ids] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def target_room(self) -> int:
        """Max tokens of a target without its [SEP]."""
        return self.settings.max_target_tokens - 1

    def read(self, path: str) -> None:
        """Add the pairs of a file; raises DataError if it has none."""
        pairs, skipped = len(self.sources), self.tally[_EMPTY].count
        window: list[Row] = []
        for row in read_rows(Path(path)):
            window.append(row)
            if len(window) == _WINDOW:
                self._add(path, window)
                window = []
        self._add(path, window)
        if len(self.sources) == pairs:
            count = self.tally[_EMPTY].count - skipped
            lacking = f" ({count:,} rows lack one of the two)" if count else ""
            raise DataError(f"{path}: found no pair of source and target{lacking}, expected at least one")

    def _add(self, path: str, rows: Sequence[Row]) -> None:
        """Tokenize rows of one file and keep those without empty fields."""
        names = (*self.settings.source, self.settings.target)
        values = {
            name: [row.text_or_tokens(name, f"{path}:{row.line}", named_by=_NAMED_BY) for row in rows] for name in names
        }
        target_texts = [self._sentences(value) for value in values[self.settings.target]]
        ids = {name: self._ids(path, rows, values[name]) for name in self.settings.source}
        targets = self._ids(path, rows, target_texts)
        for number, row in enumerate(rows):
            parts = [ids[name][number] for name in self.settings.source]
            self._keep(path, row, parts, targets[number], values[self.settings.target][number])

    def _sentences(self, value: str | list[str]) -> str | list[str]:
        """The target with [X_SEP] for line breaks."""
        if isinstance(value, list) or self.tokenizer.token_to_id(SENTENCE_END) is None:
            return value
        return f" {SENTENCE_END} ".join(line for line in value.splitlines() if line.strip())

    def _ids(self, path: str, rows: Sequence[Row], values: Sequence[str | list[str]]) -> list[Ids]:
        texts = iter(self.tokenizer.encode([value for value in values if isinstance(value, str)], special_tokens=False))
        found = []
        for row, value in zip(rows, values, strict=True):
            ids = self._counted(path, row, next(texts)) if isinstance(value, str) else self._look_up(path, row, value)
            found.append(ids)
        return found

    def _counted(self, path: str, row: Row, ids: Ids) -> Ids:
        unknown = int((ids == self.tokenizer.unk_id).sum())
        found = [f"{path}:{row.line}: {unknown} of {len(ids)}"] if unknown else []
        self.tally.add(_UNREADABLE, found, of=len(ids), count=unknown)
        return ids

    def _look_up(self, path: str, row: Row, tokens: Sequence[str]) -> Ids:
        ids, unknown = look_up(tokens, self.tokenizer)
        self.tally.add(_UNLISTED, [f"{path}:{row.line}: token {token!r:.60}" for token in unknown], of=len(ids))
        return ids

    def _keep(self, path: str, row: Row, parts: Sequence[Ids], target: Ids, text: str | list[str]) -> None:
        location, room = f"{path}:{row.line}", self.settings.source_room
        is_empty = not all(map(len, (*parts, target)))
        self.tally.add(_EMPTY, [f"{location}: empty {'source' if len(target) else 'target'}"] if is_empty else [], of=1)
        if is_empty:
            return
        source, length = join_parts(parts, separator_id=self.tokenizer.sep_id, room=room)
        for name, found, limit in (("sources", length, room), ("targets", len(target), self.target_room)):
            what = f"{name} had more than {limit} tokens and were truncated"
            self.tally.add(what, [f"{location}: {found} tokens"] if found > limit else [], of=1)
        self.sources.append(source)
        self.targets.append(target[: self.target_room])
        self.references.append(text if isinstance(text, str) else " ".join(glued(text)))
        self.locations.append(location)

    def finish(self) -> Pairs:
        """The pairs, after reporting what was skipped, truncated or unknown."""
        unlisted = self.tally[_UNLISTED]
        if unlisted.count > _MAX_UNKNOWN * unlisted.of:
            raise DataError(
                f"{unlisted.first[0]}: {unlisted.count} of {unlisted.of} listed tokens are not in the "
                f"vocabulary: the lists were made with another one; use that one as the tokenizer"
            )
        self.tally.report()
        return Pairs(sources=self.sources, targets=self.targets, references=self.references, locations=self.locations)
