"""Reads CoNLL column files: one word per line, sentences separated by blank lines.

In: a .conll, .bio or .txt file, optionally .gz: the word in the first column, its tag in the last one, separated by
tabs, or else by spaces. Out: one row per sentence, with a list of words and a list of tags. -DOCSTART- lines separate
documents and hold no word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from minilm.errors import DataError
from minilm.files.rows import Row, read_lines
from minilm.files.source import Source
from minilm.tasks.tokens.schemes import require_tag

CONLL_SUFFIXES = (".conll", ".bio", ".txt")
"""Suffixes of column files; a `.txt` file that has no tags to learn from holds one text per line instead."""
WORDS, TAGS = "tokens", "ner_tags"
"""Columns of the rows, named as in the data sets of the hub."""

_DOCUMENT = "-DOCSTART-"


@dataclass(kw_only=True)
class _Sentence:
    """The lines read since the last blank one."""

    line: int = 0
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def row(self) -> Row:
        values = {WORDS: self.words, **({TAGS: self.tags} if self.tags else {})}
        return Row(line=self.line, values=values)


def read_conll(path: Source, *, tagged: bool = True) -> Iterator[Row]:
    """Yield the sentences of a file as rows with `tokens` and `ner_tags`; a row's line is that of its first word.

    Args:
        path: the file.
        tagged: every line must have a tag; otherwise a file may have words only.

    Raises:
        DataError: a line has another number of columns than the first one, or its last column is not a tag; names it.
        SystemProblem: the file cannot be read.
    """
    sentence, columns = _Sentence(), 0
    for number, line in read_lines(path):
        cells = _cells(line)
        if not cells or cells[0] == _DOCUMENT:
            if sentence.words:
                yield sentence.row()
            sentence = _Sentence()
            continue
        columns = columns or len(cells)
        _require_columns(cells, columns, f"{path}:{number}", tagged=tagged)
        if not sentence.words:
            sentence.line = number
        sentence.words.append(cells[0])
        if columns > 1:
            sentence.tags.append(cells[-1])
    if sentence.words:
        yield sentence.row()


def read_untagged_lines(path: Source, column: str) -> Iterator[Row]:
    """Yield each line of a .txt file as a row with a text in `column`.

    Raises:
        DataError: it is a column file.
        SystemProblem: the file cannot be read.
    """
    lines = list(read_lines(path))
    if lines and all(_ends_in_tag(_cells(line)) for _, line in lines if line.strip()):
        raise DataError(
            f"{path}: every line ends in a tag, as in a column file, but .txt holds one text per line; name it "
            "with the suffix .conll"
        )
    for number, line in lines:
        yield Row(line=number, values={column: line})


def _ends_in_tag(cells: list[str]) -> bool:
    try:
        require_tag(cells[-1])
    except ValueError:
        return False
    return len(cells) > 1


def _cells(line: str) -> list[str]:
    """The columns of a line; a word may hold a space if tabs separate them."""
    kept = line.rstrip("\t ")
    if "\t" in kept:
        return [cell.strip(" ") for cell in kept.split("\t")]
    return [cell for cell in kept.split(" ") if cell]


def _require_columns(cells: list[str], columns: int, location: str, *, tagged: bool) -> None:
    """Raise DataError for a line that is not a word and its tag, such as that of a plain text."""
    fix = "in a column file a line is a word, then its tag in the last column; write whole texts as .jsonl"
    if len(cells) != columns:
        raise DataError(f"{location}: found {len(cells)} columns, expected {columns} as in the lines before; {fix}")
    if columns == 1:
        if tagged:
            raise DataError(f"{location}: found 1 column, expected a word and its tag; {fix}")
        return
    try:
        require_tag(cells[-1])
    except ValueError as error:
        raise DataError(f"{location}: {error}; {fix}") from None
