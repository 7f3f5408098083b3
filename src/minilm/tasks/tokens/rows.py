"""Reads tagged sentences: lists of words with one tag each.

In: column files (see `conll`), or .jsonl, .json (each optionally .gz) and .parquet with a list of words and a list of
tags; tags are names, or numbers of `task.labels`. Out: validated sentences in file order, with tags in IOB2. The first
bad row rejects the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from minilm.errors import DataError, UsageError
from minilm.files.fields import kind_of, no_field
from minilm.files.formats import reader_for
from minilm.files.rows import Row, read_rows
from minilm.files.source import Source, suffix_of
from minilm.tally import Tally
from minilm.tasks.text.rows import are_ids, usual_id_column
from minilm.tasks.tokens.conll import CONLL_SUFFIXES, TAGS, WORDS, read_conll, read_untagged_lines
from minilm.tasks.tokens.schemes import TagError, find_scheme, iob2_labels, require_tag, to_iob2
from minilm.tasks.tokens.settings import TokensSettings

logger = logging.getLogger(__name__)

WORD_COLUMNS, TAG_COLUMNS = (WORDS, "words"), (TAGS, "tags", "labels")
"""Columns that are tried if none is named."""
TEXT = "text"
EMPTY = "sentences have no words"

TABLES = (".jsonl", ".json", ".parquet")
"""Suffixes of files whose rows hold lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A sentence whose words are known.

    Attributes:
        words: its words.
        tags: the tag of each word, in IOB2; () if read without.
        id: unique in its file.
        path: its file.
        line: the line of its first word, or its row.
        is_columns: whether each word has its own line.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] = ()
    id: str
    path: str
    line: int
    is_columns: bool

    @property
    def location(self) -> str:
        """File and line."""
        return f"{self.path}:{self.line}"

    def word_location(self, word: int) -> str:
        """Location of the word with this index."""
        return f"{self.path}:{self.line + word}" if self.is_columns else f"{self.location}, word {word + 1}"


def read_tagged(path: Source, settings: TokensSettings) -> list[Sentence]:
    """Read the sentences of a file, in IOB2; the scheme is logged, and sentences without words are skipped and counted.

    Raises:
        UsageError: the path is missing or of an unknown kind, or tags are numbers without names.
        DataError: a row has no words or tags, unequal numbers of them, an unknown tag, or one that contradicts the
            scheme; or no row has a word. Names the line.
        SystemProblem: the file cannot be read.
    """
    sentences: list[Sentence] = []
    ids: list[object] = []
    empty: list[str] = []
    named = None if is_lines(path) else settings.id
    id_column = named
    number = -1
    for number, row in enumerate(sentence_rows(path, tagged=True)):
        sentence = _sentence(path, row, number, settings)
        id_column = id_column or (usual_id_column(row) if not number else None)
        if not sentence.words:
            empty.append(sentence.location)
            continue
        sentences.append(sentence)
        ids.append(row.values.get(id_column) if id_column else None)
    if not sentences:
        raise DataError(f"{path}: found no sentence with a word, expected at least one")
    tally = Tally()
    tally.add(f"{EMPTY} and were skipped", empty, of=number + 1)
    tally.report()
    values = ((value, one.location) for value, one in zip(ids, sentences, strict=True))
    if id_column and are_ids(values, id_column, named=named is not None):
        sentences = [replace(one, id=str(value)) for value, one in zip(ids, sentences, strict=True)]
    return _in_iob2(path, sentences, settings)


def labels_of(sentences: Iterable[Sentence], settings: TokensSettings) -> tuple[str, ...]:
    """The labels of the model, in IOB2: those of the settings, else those of the training sentences, O first."""
    found = sorted({tag for sentence in sentences for tag in sentence.tags} - {"O"}, key=lambda tag: (tag[2:], tag))
    return iob2_labels(settings.labels or ["O", *found])


def require_known(sentences: Iterable[Sentence], labels: Sequence[str]) -> None:
    """Raise DataError for the first tag that is not among `labels`."""
    known = set(labels)
    for sentence in sentences:
        if not known.issuperset(sentence.tags):
            word = next(index for index, tag in enumerate(sentence.tags) if tag not in known)
            raise DataError(
                f"{sentence.word_location(word)}: found tag {sentence.tags[word]!r:.60}, expected one of "
                f"{', '.join(labels)}: correct the tag, or list all tags in task.labels"
            )


def sentence_rows(path: Source, *, tagged: bool) -> Iterator[Row]:
    """The rows of a file, each with a list of words; those of a column file have the columns `tokens` and `ner_tags`.

    Args:
        path: the file, or standard input.
        tagged: every word must have a tag. Otherwise column files may have words only, and .txt holds texts.

    Raises:
        UsageError: the path is missing or of an unknown kind.
    """
    if suffix_of(path) in (".csv", ".tsv"):
        raise UsageError(
            f"{path}: a cell of a .csv or .tsv file cannot hold a list of words; write .jsonl, or a column file with "
            f"one word per line and the suffix {' or '.join(CONLL_SUFFIXES)}"
        )
    readers: dict[str, Callable[[Source], Iterator[Row]]] = {
        **dict.fromkeys(CONLL_SUFFIXES, partial(read_conll, tagged=tagged)),
        **dict.fromkeys(TABLES, read_rows),
    }
    if not tagged:
        readers[".txt"] = partial(read_untagged_lines, column=TEXT)
    return reader_for(path, readers)(path)


def input_columns(settings: TokensSettings) -> tuple[str, ...]:
    """Columns of the words or texts to tag, the first one that exists: those of training, else the usual ones."""
    words = (settings.words,) if settings.words else WORD_COLUMNS
    return (*words, settings.text or TEXT)


def is_lines(path: Source) -> bool:
    """Whether a file has lines, and no named columns."""
    return suffix_of(path) in CONLL_SUFFIXES


def _sentence(path: Source, row: Row, number: int, settings: TokensSettings) -> Sentence:
    """The words and tags of a row; the tags as they are."""
    columns = is_lines(path)
    sentence = Sentence(words=(), id=str(number), path=str(path), line=row.line, is_columns=columns)
    where = sentence.location
    word_column = WORDS if columns else _column(row, settings.words, WORD_COLUMNS, "task.words", where)
    tag_column = TAGS if columns else _column(row, settings.tags, TAG_COLUMNS, "task.tags", where)
    words, tags = _words(row, word_column, where), row.values[tag_column]
    if not isinstance(tags, list):
        raise DataError(f"{where}: column {tag_column!r} is {kind_of(tags)}, expected a list of tags; correct the row")
    if len(words) != len(tags):
        raise DataError(
            f"{where}: found {len(words)} words in {word_column!r} and {len(tags)} tags in {tag_column!r}, expected "
            "one tag for each word; correct the row"
        )
    sentence = replace(sentence, words=words)
    named = tuple(_tag(tag, settings, sentence.word_location(index)) for index, tag in enumerate(tags))
    return replace(sentence, tags=named)


def _words(row: Row, column: str, location: str) -> tuple[str, ...]:
    """The words in a column of a row; raises DataError if it holds anything but a list of texts."""
    value = row.values[column]
    if not isinstance(value, list):
        raise DataError(f"{location}: column {column!r} is {kind_of(value)}, expected a list of words; correct the row")
    for word in value:
        if not isinstance(word, str):
            raise DataError(f"{location}: a word in {column!r} is {kind_of(word)}, expected a string; correct the row")
    return tuple(value)


def _column(row: Row, named: str | None, usual: Sequence[str], key: str, where: str) -> str:
    wanted = usual if named is None else (named,)
    found = next((name for name in wanted if name in row.values), None)
    if found is None:
        fix = f"correct the row, or set {key} to the column (score tokens: in a recipe, --task)"
        raise DataError(f"{where}: {no_field(wanted, row.values, fix=fix)}")
    return found


def _tag(value: object, settings: TokensSettings, where: str) -> str:
    """A tag by its name, or by its number in `task.labels`."""
    labels = settings.labels
    if isinstance(value, int) and not isinstance(value, bool):
        if not labels:
            raise UsageError(
                f"{where}: found tag {value}, a number without a name; set task.labels to all names in the order of "
                "their numbers, such as [O, B-PER, I-PER] (score tokens: --labels); on the hub, they are the feature's "
                "`names`"
            )
        if not 0 <= value < len(labels):
            raise DataError(
                f"{where}: found tag {value}, expected a number from 0 to {len(labels) - 1}, for {', '.join(labels)}; "
                "correct the tag, or task.labels"
            )
        value = labels[value]
    if not isinstance(value, str):
        raise DataError(f"{where}: a tag is {kind_of(value)}, expected its name or number; correct the row")
    try:
        require_tag(value)
    except ValueError as error:
        raise DataError(f"{where}: {error}; correct the tag") from None
    return value


def _in_iob2(path: Source, sentences: list[Sentence], settings: TokensSettings) -> list[Sentence]:
    """The sentences with their tags in IOB2; logs the scheme of the file."""
    tags = [sentence.tags for sentence in sentences]
    try:
        scheme = find_scheme(tags) if settings.scheme == "auto" else settings.scheme
        converted = to_iob2(tags, scheme)
    except TagError as error:
        raise DataError(f"{sentences[error.sentence].word_location(error.word)}: {error}") from None
    words = sum(len(sentence.words) for sentence in sentences)
    how = "" if scheme == "IOB2" else ", converted to IOB2"
    logger.info("%s: %d sentences, %d words, tags in %s%s", path, len(sentences), words, scheme, how)
    return [replace(one, tags=tuple(own)) for one, own in zip(sentences, converted, strict=True)]
