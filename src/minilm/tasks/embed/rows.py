"""Rows to train text vectors with: plain texts, pairs with negatives, scored pairs, scored lists.

In: .txt (plain texts only), .tsv, .jsonl, .json, .csv (each optionally .gz) or .parquet files; the columns in
`EmbedSettings`.
Out: checked rows in file order, each with its location. An unusable row is an error that names it; only empty plain
texts are skipped, counted and reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minilm.errors import DataError
from minilm.files.by_id import as_score
from minilm.files.fields import as_text, no_field, text_in, texts_in
from minilm.files.rows import Row, has_cells, read_rows
from minilm.tally import reporting_tally
from minilm.tasks.embed.settings import EmbedSettings
from minilm.tasks.scored_lists import columns_of_negatives, scored_twice, scores_in
from minilm.tasks.trainable import trainable

_EMPTY = "empty texts were skipped"
_LIST = "texts"  # column of a list without a positive
_CORRECT = "correct the row or remove it"


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedRow:
    """One training example, or one held-out pair.

    Attributes:
        texts: one plain text; two of a scored pair; the query, the positive and the negatives of a pair or list, or the
            query and the texts of a list.
        scores: one of a scored pair; those of a list, one for each text after the query, unless a teacher gives them;
            else none.
        location: where it was read, for messages.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...] = ()
    location: str


def training_rows(
    paths: Sequence[str], settings: EmbedSettings, reported: set[str] | None = None
) -> Iterator[EmbedRow]:
    """Read the rows that the loss of the settings takes.

    Args:
        paths: training files.
        settings: of the task.
        reported: findings that are not reported again, of an earlier pass over the same files.

    Raises:
        UsageError: a path is missing or of an unknown kind.
        DataError: a file is damaged or has no row, or a row cannot be used; names the line.
        SystemProblem: a file cannot be read.
    """
    if settings.rows == "texts":
        yield from _plain_texts(paths, settings, reported)
    elif settings.rows == "scored pairs":
        yield from _training_pairs(paths, settings)
    else:
        for path in paths:
            for row, location in _rows([path]):
                yield _pair(row, location, settings, in_cell=has_cells(Path(path)))


def scored_pairs(path: str, settings: EmbedSettings) -> list[EmbedRow]:
    """Read a held-out file of scored pairs.

    Raises:
        UsageError, DataError, SystemProblem: as for `training_rows`; or the scores are all equal.
    """
    rows = [_scored_pair(row, location, settings) for row, location in _rows([path])]
    if len({row.scores for row in rows}) < 2:
        found = f"{len(rows):,} pairs with the same score"
        raise DataError(f"{path}: found {found}; a correlation needs at least two different scores")
    return rows


def _rows(paths: Sequence[str]) -> Iterator[tuple[Row, str]]:
    """The rows of some files, each with its location; raises DataError for a file without any."""
    for path in paths:
        location = ""
        for row in read_rows(Path(path)):
            location = f"{path}:{row.line}"
            row.require_fit(location)
            yield row, location
        if not location:
            raise DataError(f"{path}: found no row, expected at least one")


def _training_pairs(paths: Sequence[str], settings: EmbedSettings) -> Iterator[EmbedRow]:
    """Scored pairs from which the loss can learn."""
    first, count, differ = None, 0, False
    for row, location in _rows(paths):
        pair = _scored_pair(row, location, settings)
        if settings.loss == "cosine" and abs(pair.scores[0]) > 1:
            raise DataError(
                f"{location}: column {settings.score!r} is {pair.scores[0]:g}, expected -1 to 1 with loss cosine, as "
                "cosines become equal to scores; scale the scores, or use loss cosent, which learns their order"
            )
        first, count = first or pair, count + 1
        differ = differ or pair.scores != first.scores
        yield pair
    if first is not None and not differ:
        raise DataError(
            f"all {count:,} training pairs have the score {first.scores[0]:g}, expected at least two different ones "
            f"(first: {first.location})"
        )


def _plain_texts(paths: Sequence[str], settings: EmbedSettings, reported: set[str] | None) -> Iterator[EmbedRow]:
    with reporting_tally(reported) as tally:
        for path in paths:
            has_text = False
            for text, location in _texts_of(path, settings):
                if text.strip():
                    has_text = True
                    yield EmbedRow(texts=(text,), location=location)
                else:
                    tally.add(_EMPTY, [location])
            if not has_text:
                raise DataError(f"{path}: found no text, expected at least one")


def _texts_of(path: str, settings: EmbedSettings) -> Iterator[tuple[str, str]]:
    """The plain texts of a file, also empty ones, each with its location."""
    for row in read_rows(Path(path), text_column=settings.texts[0]):
        location = f"{path}:{row.line}"
        row.require_fit(location)
        found = [name for name in settings.texts if name in row.values]
        if not found:
            raise DataError(f"{location}: {no_field(settings.texts, row.values, fix=_fix('texts'))}")
        for name in found:
            yield _text(row.values[name], f"column {name!r}", location), location


def _scored_pair(row: Row, location: str, settings: EmbedSettings) -> EmbedRow:
    texts = tuple(_full_text(row, key, location, settings, in_cell=False) for key in ("sentence1", "sentence2"))
    value = _value(row, "score", location, settings)
    return EmbedRow(texts=texts, scores=(_number(value, f"column {settings.score!r}", location),), location=location)


def _pair(row: Row, location: str, settings: EmbedSettings, *, in_cell: bool) -> EmbedRow:
    texts = [_full_text(row, "query", location, settings, in_cell=in_cell)]
    negatives = _negatives(row, settings)
    is_list = _LIST in row.values and row.values.keys().isdisjoint({settings.positive, *negatives})
    has_positive = settings.loss != "kl" or not is_list
    if has_positive:
        texts.append(_full_text(row, "positive", location, settings, in_cell=in_cell))
    try:
        for name in negatives if has_positive else (_LIST,):
            texts += _optional_texts(row.values, name, in_cell=in_cell)
        if settings.rows == "pairs":
            return EmbedRow(texts=tuple(texts), location=location)
        if len(texts) < 3:
            raise DataError(f"{location}: {_too_few(len(texts) - 1, settings, has_positive=has_positive)}")
        order = ", that of the positive first" if has_positive else ""
        scores = _scores(row, len(texts) - 1, location, settings, order=order)
        return EmbedRow(texts=tuple(texts), scores=scores, location=location)
    except ValueError as error:
        raise DataError(f"{location}: {error}; {_CORRECT}") from None


def _negatives(row: Row, settings: EmbedSettings) -> Sequence[str]:
    """The columns of negatives; unless they are named, also those that are numbered."""
    return columns_of_negatives(row.values) if _has_default_negatives(settings) else settings.negatives


def _has_default_negatives(settings: EmbedSettings) -> bool:
    return settings.negatives == EmbedSettings.negatives


def _too_few(count: int, settings: EmbedSettings, *, has_positive: bool) -> str:
    """Why a list of `count` texts teaches nothing."""
    if not has_positive:
        return f"column {_LIST!r} has {count} text{'s' * (count != 1)}; a list needs at least two: {_CORRECT}"
    numbered = " or numbered columns such as 'negative_1'" if _has_default_negatives(settings) else ""
    return (
        f"found no negative in {', '.join(map(repr, settings.negatives))}{numbered}; a list needs at least one besides "
        f"the positive: add one, remove the row, or {_fix('negatives')}"
    )


def _scores(row: Row, texts: int, location: str, settings: EmbedSettings, *, order: str) -> tuple[float, ...]:
    """The scores of a list in an `order`; none if a teacher gives them."""
    if settings.teacher is None:
        value = _value(row, "scores", location, settings)
        return tuple(scores_in(value, settings.scores, texts=texts, order=order))
    if row.values.get(settings.scores) not in (None, ""):
        raise DataError(f"{location}: {scored_twice(settings.scores, settings.teacher)}")
    return ()


def _optional_texts(values: Mapping[str, object], name: str, *, in_cell: bool) -> list[str]:
    """The texts of a column, which may hold one text, a list of texts, or nothing."""
    value = values.get(name)
    is_nothing = value is None or (isinstance(value, str) and not value.strip())
    return [] if is_nothing else texts_in(value, name, in_cell=in_cell)


def _full_text(row: Row, key: str, location: str, settings: EmbedSettings, *, in_cell: bool) -> str:
    """The text of a column that must not be empty."""
    try:
        return text_in(_value(row, key, location, settings), getattr(settings, key), in_cell=in_cell)
    except ValueError as error:
        raise DataError(f"{location}: {error}; {_CORRECT}") from None


def _value(row: Row, key: str, location: str, settings: EmbedSettings) -> object:
    """The value of the column that the settings name for `key`."""
    name: str = getattr(settings, key)
    if name not in row.values:
        raise DataError(f"{location}: {no_field([name], row.values, fix=_fix(key))}")
    return row.values[name]


def _text(value: object, what: str, location: str) -> str:
    """The value; raises DataError unless it is a text."""
    try:
        return as_text(value, f"{location}: {what} is")
    except ValueError as error:
        raise DataError(f"{error}; correct the row") from None


def _number(value: object, what: str, location: str) -> float:
    try:
        return trainable(as_score(value))
    except ValueError as error:
        raise DataError(f"{location}: {what}: {error}; correct the row") from None


def _fix(key: str) -> str:
    or_teacher = ", or name a model that gives the scores with task.teacher" if key == "scores" else ""
    return f"name the file's own columns with --set task.{key}=COLUMN, or rename them{or_teacher}"
