"""Reads predicted tags by id: what `minilm predict` writes, or a column file.

In: rows with an id and a list of tags (.jsonl, .json, .csv, .tsv or .parquet; JSON in a cell of text), or a column file
whose sentences are numbered from 0. Out: the tags of each sentence, its words where the file has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minilm.errors import DataError
from minilm.files.by_id import read_by_id
from minilm.files.fields import kind_of
from minilm.files.source import Source
from minilm.tasks.text.rows import ID_COLUMNS
from minilm.tasks.tokens.conll import TAGS, WORDS, read_conll
from minilm.tasks.tokens.rows import Sentence, is_lines
from minilm.tasks.tokens.schemes import Scheme, TagError, iob2_name, require_tag, to_iob2

_FIELDS = ("tags", "prediction", TAGS)
_OUTSIDE = "O"


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedTags:
    """The predicted tags of one sentence; `words` is empty where the file has tags only."""

    tags: tuple[str, ...]
    words: tuple[str, ...] = ()


def read_predicted_tags(path: Source, *, id_column: str | None) -> dict[str, PredictedTags]:
    """Read the tags of each sentence as they are: those of a model need not follow a scheme.

    Args:
        path: the file, or standard input.
        id_column: column of the id, if it is not a usual one.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row has no list of tags, or the file has none; names the line or the id.
        SystemProblem: the file cannot be read.
    """
    if is_lines(path):
        found = {
            str(number): PredictedTags(tags=_texts(row.values[TAGS]), words=_texts(row.values[WORDS]))
            for number, row in enumerate(read_conll(path))
        }
        if not found:
            raise DataError(f"{path}: found no sentence with a word, expected at least one")
        return found
    ids = (*filter(None, [id_column]), *ID_COLUMNS)
    return read_by_id(path, _parse, fields=_FIELDS, id_fields=ids, allow_equal_repeats=True)


def tags_for(
    references: Sequence[Sentence], predictions: dict[str, PredictedTags], scheme: Scheme | None
) -> list[list[str]]:
    """The predicted tags of each reference, in IOB2; words without a prediction are O.

    Args:
        references: sentences with their words.
        predictions: by id.
        scheme: how the predictions mark entities; None: IOB2, where E- and S- are read as I- and B-.

    Raises:
        DataError: a sentence has another number of tags than words, or other words; or a tag contradicts the scheme.
    """
    found = []
    for one in references:
        given = predictions.get(one.id, PredictedTags(tags=(_OUTSIDE,) * len(one.words), words=one.words))
        _require_same_words(given, one)
        found.append([*given.tags] if scheme == "IOB1" else [iob2_name(tag) for tag in given.tags])
    if scheme != "IOB1":
        return found
    try:
        return to_iob2(found, scheme)
    except TagError as error:
        raise DataError(f"id {references[error.sentence].id!r}: {error}") from None


def _require_same_words(given: PredictedTags, reference: Sentence) -> None:
    if len(given.tags) != len(reference.words):
        raise DataError(
            f"id {reference.id!r}: found {len(given.tags)} tags, expected {len(reference.words)}, one for each word of "
            f"{reference.location}; check that the files belong together"
        )
    for index, (word, other) in enumerate(zip(given.words, reference.words, strict=False)):
        if word != other:
            raise DataError(
                f"id {reference.id!r}: found the word {word!r:.60}, expected {other!r:.60} as in "
                f"{reference.word_location(index)}; check that the files belong together"
            )


def _parse(value: object) -> PredictedTags:
    if not isinstance(value, list):
        raise ValueError(f"found {kind_of(value)}, expected a list of tags")
    for tag in value:
        if isinstance(tag, dict):
            raise ValueError(
                "found entities without the tag of each word, as `minilm predict` writes them for plain texts; "
                "predict on the words of the references: a column file, or rows with a list of words"
            )
        if not isinstance(tag, str):
            raise ValueError(f"a tag is {kind_of(tag)}, expected its name")
        require_tag(tag)
    return PredictedTags(tags=_texts(value))


def _texts(value: object) -> tuple[str, ...]:
    assert isinstance(value, list)
    return tuple(map(str, value))
