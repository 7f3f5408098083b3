"""The definition of a text task (single texts or pairs, labels or numbers), and its labeled rows.

In: a `TextTask` and a .tsv, .jsonl, .json, .csv (each optionally .gz) or .parquet file, or a `hub:` address.
Out: checked rows in file order, each with its id and location. An unusable row is an error that names it; only rows
without a label and, in GLUE files, rows of the wrong width are skipped, counted and reported as a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from minilm.errors import DataError, UsageError
from minilm.files.by_id import ID_FIELDS
from minilm.files.fields import as_text
from minilm.files.rows import Row, read_rows
from minilm.files.source import Source
from minilm.score.glue import matching_label
from minilm.tally import Tally
from minilm.tasks.text.hub import is_hub_address, read_hub_rows
from minilm.tasks.text.labels import (
    flagged_labels,
    is_flag,
    label_number,
    label_numbers,
    label_text,
    listed_labels,
    sorted_labels,
)

logger = logging.getLogger(__name__)

ID_COLUMNS = (*ID_FIELDS, "index")
MISFITS = "rows with more or fewer columns than expected skipped"
_NO_LABEL = "rows without a label skipped"
_UNLABELLED = ("-", "-1")  # MNLI and SNLI if the annotators disagree; test sets on the hub


@dataclass(frozen=True, kw_only=True, slots=True)
class TextColumns:
    """Names of the columns; without `id`, the first of `id`, `idx` and `index` that exists is used."""

    text: str
    label: str
    text_pair: str | None = None
    id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialLayout:
    """How published files of a task differ from `TextTask.columns`.

    Attributes:
        columns: alternative names of the columns.
        unnamed: names for the columns of .tsv files that have no header.
    """

    columns: tuple[TextColumns, ...] = ()
    unnamed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTask:
    """A task over texts or pairs of texts.

    Attributes:
        name: for messages and reports.
        columns: columns of texts, label and id.
        labels: names of the labels in id order; empty for regression.
        metrics: keys of `score/glue.py`.
        main: the metric that selects the best checkpoint; a name that is not in `metrics` means their mean.
        label_range: smallest and largest number of a regression task, if known.
        official: how its published files differ; None for a user's own task.
        multi_label: every label applies or not; a row has any number of them.
    """

    name: str
    columns: TextColumns
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    main: str
    label_range: tuple[float, float] | None = None
    official: OfficialLayout | None = None
    multi_label: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRow:
    """One text or pair.

    Attributes:
        text: the text, or the first one of a pair.
        text_pair: the second one; None in tasks over single texts.
        label: number of the label in `TextTask.labels`, or the number to predict; None if read without labels.
        id: unique in its file.
        location: where it was read, for messages.
        labels: the numbers of its labels in a multi-label task, which has no `label`.
    """

    text: str
    text_pair: str | None
    label: int | float | None
    id: str
    location: str
    labels: tuple[int, ...] = ()


def read_text_rows(
    path: Source | str, task: TextTask, *, labelled: bool = True, with_texts: bool = True
) -> list[TextRow]:
    """Read the rows of a task's file.

    The id of a row is the value of its id column, or its number in the file from 0. If no id column was named and the
    one found has repeated ids, all rows are numbered instead, with a warning.

    Args:
        path: a file, standard input, or `hub:glue/TASK/SPLIT`.
        task: defines columns and labels.
        labelled: every row must have a label and a text; otherwise labels are ignored and texts may be empty.
        with_texts: read the texts; otherwise the rows are references, which may lack them: `text` is "", and an id that
            is missing or repeated is an error.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a column is missing, a row has no text, an unknown label or a repeated id, or no row has a label;
            names the line.
        SystemProblem: the file cannot be read, or the package for hub addresses is not installed.
    """
    reading = _Reading(path=path, task=task, labelled=labelled, with_texts=with_texts)
    return reading.text_rows(reading.rows())


def read_rows_and_labels(
    paths: Sequence[Source | str], task: TextTask, *, also: Mapping[str, str] | None = None, with_texts: bool = True
) -> tuple[TextTask, list[TextRow]]:
    """Read, once, the files of a task whose labels are determined by the files.

    All rows are kept in raw form until the last one is read.

    Args:
        paths: files, as for `read_text_rows`.
        task: defines the columns.
        also: more labels, each with its location.
        with_texts: as for `read_text_rows`.

    Returns:
        The task with the labels (whole numbers sorted by value, else as text), and the rows of all files.

    Raises:
        UsageError: the labels look like numbers to predict, or there are too many.
        DataError: as for `read_text_rows`.
    """
    readings = [_Reading(path=path, task=task, labelled=True, with_texts=with_texts) for path in paths]
    found = [list(reading.rows()) for reading in readings]
    locations = dict(also or {})
    for reading, rows in zip(readings, found, strict=True):
        for _, row, columns in rows:
            for text in reading.label_texts(row, columns):
                locations.setdefault(text, reading.location(row))
    if _UNLABELLED[0] in locations:
        raise UsageError(
            f"{locations[_UNLABELLED[0]]}: found label '-', which means no label in files such as SNLI but may be one "
            f"in yours: list the labels in task.labels (score text: --labels)"
        )
    task = replace(task, labels=sorted_labels(locations))
    for reading in readings:
        reading.task = task
    return task, [row for reading, rows in zip(readings, found, strict=True) for row in reading.text_rows(rows)]


@dataclass(kw_only=True)
class _Reading:
    """One file being read: which columns it has, and what was skipped."""

    path: Source | str
    task: TextTask
    labelled: bool
    with_texts: bool
    tally: Tally = field(default_factory=Tally)
    columns: TextColumns | None = None
    id_column: str | None = None
    has_label_columns: bool = False

    def rows(self) -> Iterator[tuple[int, Row, TextColumns]]:
        """Rows of the right width, each with its number in the file from 0; the first one determines the columns."""
        for number, row in enumerate(self._table()):
            if self.task.official is None:
                row.require_fit(self.location(row))
            if row.misfit:
                self.tally.add(MISFITS, [f"{self.location(row)}: {row.misfit}"])
                continue
            if self.columns is None:
                self.columns = self._find_columns(row)
                self.id_column = self.columns.id or usual_id_column(row)
            yield number, row, self.columns

    def text_rows(self, found: Iterable[tuple[int, Row, TextColumns]]) -> list[TextRow]:
        """The usable rows, checked; reports those that are skipped."""
        rows: list[TextRow] = []
        ids: list[object] = []
        for number, row, columns in found:
            several = self.labelled and self.task.multi_label
            label = self.label(row, columns) if self.labelled and not several else None
            labels = self.labels(row, columns) if several else ()
            if self.labelled and (labels if several else label) is None:
                continue
            text, pair = self.texts(row, columns)
            where = self.location(row)
            rows.append(
                TextRow(text=text, text_pair=pair, label=label, labels=labels or (), id=str(number), location=where)
            )
            ids.append(None if self.id_column is None else row.values.get(self.id_column))
        if self.labelled and not rows:
            skipped = "".join(f"; {sentence}" for sentence in self.tally.sentences().values())
            raise DataError(f"{self.path}: found no row with a label, expected at least one{skipped}")
        self.tally.report()
        return self.with_ids(rows, ids)

    def _table(self) -> Iterator[Row]:
        unnamed = self.task.official.unnamed if self.task.official else ()
        if is_hub_address(str(self.path)):
            return read_hub_rows(str(self.path), labels=self.task.labels)
        return read_rows(Path(self.path) if isinstance(self.path, str) else self.path, unnamed=unnamed)

    def _find_columns(self, row: Row) -> TextColumns:
        ways = [self.task.columns, *(self.task.official.columns if self.task.official else ())]
        for way in ways:
            if all(name in row.values for name in self._needed(way)):
                return way
        needed = [self._needed(way) for way in ways]
        if self.labelled and self.task.multi_label and self.task.labels:
            needed.append([*self._needed(ways[0])[:-1], *self.task.labels])
            if all(name in row.values for name in needed[-1]):
                self.has_label_columns = True
                return ways[0]
        expected = " or ".join(", ".join(map(repr, names)) for names in needed)
        found = ", ".join(f"{name!r:.40}" for name in list(row.values)[:16]) or "none"
        raise DataError(
            f"{self.location(row)}: task {self.task.name!r} expects the columns {expected}, found {found}; "
            f"name the file's own columns, for example {self._keys_to_set(row)}, or rename them"
        )

    def _keys_to_set(self, row: Row) -> str:
        """The keys or flags that name the missing columns, with columns of similar names, or the only one left."""
        usual = self.task.columns
        needed = {"text": usual.text, "text_pair": usual.text_pair} if self.with_texts else {}
        needed |= {"id": usual.id, **({"label": usual.label} if self.labelled else {})}
        missing = {key: name for key, name in needed.items() if name is not None and name not in row.values}
        flags = self._flag_columns(row, usual) if "label" in missing else []
        if flags:
            del missing["label"]
        left = [name for name in row.values if name not in needed.values() and name not in ID_COLUMNS]
        rest = left if len(missing) == len(left) == 1 else ["COLUMN"]
        named = {}
        for key, name in missing.items():
            named[key] = (get_close_matches(name, left, n=1) or rest)[0]
            left = [other for other in left if other != named[key]]
        if not self.with_texts:
            listed = [f'--labels "{",".join(flags)}"'] if flags else []
            return " ".join([*(f"--{key}-field {name}" for key, name in named.items()), *listed])
        listed = [f'--set "task.labels=[{", ".join(flags)}]"'] if flags else []
        keys = " ".join([*(f"--set task.{key}={name}" for key, name in named.items()), *listed])
        options = " ".join(f"--{key.replace('_', '-')} {name}" for key, name in named.items() if key != "label")
        return f"{keys}{f' (minilm predict: {options})' if options else ''}"

    def _flag_columns(self, row: Row, usual: TextColumns) -> list[str]:
        """The columns of a multi-label task that may each hold 0 or 1 for a label, for the advice to list them."""
        own = {usual.text, usual.text_pair, usual.id, *ID_COLUMNS}
        if not self.task.multi_label:
            return []
        return [name for name, value in row.values.items() if name not in own and is_flag(value)]

    def _needed(self, way: TextColumns) -> list[str]:
        texts = (way.text, way.text_pair) if self.with_texts else ()
        named = [way.id, *texts, way.label if self.labelled else None]
        return [name for name in named if name is not None]

    def location(self, row: Row) -> str:
        return f"{self.path}:{row.line}"

    def value(self, row: Row, name: str) -> object:
        if name not in row.values:
            found = f"no column {name!r}, which the first row has"
            raise DataError(f"{self.location(row)}: {found}; add it or remove the row")
        return row.values[name]

    def texts(self, row: Row, columns: TextColumns) -> tuple[str, str | None]:
        if not self.with_texts:
            return "", None
        text = self._text(row, columns.text)
        pair = None if columns.text_pair is None else self._text(row, columns.text_pair)
        if self.labelled and not text.strip() and not (pair or "").strip():
            what = f"column {columns.text!r} is" if pair is None else f"{columns.text!r} and {columns.text_pair!r} are"
            raise DataError(f"{self.location(row)}: {what} empty, expected a text; correct the row or remove it")
        return text, pair

    def _text(self, row: Row, name: str) -> str:
        try:
            return as_text(self.value(row, name), f"column {name!r} is")
        except ValueError as error:
            raise DataError(f"{self.location(row)}: {error}; correct the row") from None

    def label_texts(self, row: Row, columns: TextColumns) -> list[str]:
        """The row's labels as texts: one, or in a multi-label task any number."""
        if not self.task.multi_label:
            return [self.label_text(row, columns, expected="a label")]
        with self.naming(row, columns.label):
            return listed_labels(self.value(row, columns.label))

    def labels(self, row: Row, columns: TextColumns) -> tuple[int, ...] | None:
        """The numbers of the row's labels in a multi-label task; None (and counted) if it is marked as having none."""
        names = self.task.labels if self.has_label_columns else (columns.label,)
        with self.naming(row, *names):
            values = [self.value(row, name) for name in names]
            found = flagged_labels(values) if self.has_label_columns else label_numbers(values[0], self.task.labels)
        if found is None:
            self.tally.add(_NO_LABEL, [f"{self.location(row)}: all label columns are -1"])
        return found

    def label_text(self, row: Row, columns: TextColumns, *, expected: str) -> str:
        """The row's label as text; `expected` is what a message says of one that is not."""
        with self.naming(row, columns.label):
            return label_text(self.value(row, columns.label), expected=expected)

    @contextmanager
    def naming(self, row: Row, *columns: str) -> Iterator[None]:
        """Turn a ValueError of a label into a DataError that names the row and its columns."""
        try:
            yield
        except ValueError as error:
            shown = ", ".join(map(repr, columns[:4]))
            raise DataError(f"{self.location(row)}: column {shown}: {error}; correct the row") from None

    def label(self, row: Row, columns: TextColumns) -> int | float | None:
        """The row's label; None (and counted) if the row is marked as having none."""
        task = self.task
        value = self.value(row, columns.label)
        text = self.label_text(row, columns, expected="a label" if task.labels else "a finite number")
        known = text in task.labels
        if not known and text in (_UNLABELLED if task.labels or task.label_range else _UNLABELLED[:1]):
            self.tally.add(_NO_LABEL, [f"{self.location(row)}: label {text!r}"])
            return None
        with self.naming(row, columns.label):
            number = label_number(value, task.labels, label_range=task.label_range)
        if task.labels and not known:
            self.tally.add(how_read(text, task.labels), [f"{self.location(row)}: label {text!r}"])
        return number

    def with_ids(self, rows: list[TextRow], ids: Sequence[object]) -> list[TextRow]:
        """The rows with the ids of their column; without valid ids they keep their numbers."""
        if self.id_column is None:
            return rows
        named = not self.with_texts or (self.columns is not None and self.columns.id is not None)
        found = ((value, row.location) for row, value in zip(rows, ids, strict=True))
        if not are_ids(found, self.id_column, named=named):
            return rows
        return [replace(row, id=str(value)) for row, value in zip(rows, ids, strict=True)]


def how_read(text: str, labels: Sequence[str]) -> str:
    """How a label that is not literally one of `labels` was read."""
    if matching_label(text, labels) is not None:
        return "labels were matched without regard to case"
    return "labels are numbers, read as: " + ", ".join(f"{number} is {name}" for number, name in enumerate(labels))


def usual_id_column(row: Row) -> str | None:
    """The column that holds ids if none was named."""
    return next((name for name in ID_COLUMNS if name in row.values), None)


def are_ids(values: Iterable[tuple[object, str]], column: str, *, named: bool) -> bool:
    """Whether all (value, location) pairs hold distinct ids; if not, a warning says that rows are numbered instead.

    Raises:
        DataError: they do not, and the user has `named` the column.
    """
    locations: dict[str, str] = {}
    for value, location in values:
        name = str(value)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not name:
            found = "missing or null" if value is None else f"{value!r:.40}"
            problem = f"column {column!r} is {found}, expected a text or a whole number"
        elif name in locations:
            problem = f"column {column!r}: id {name!r:.60} is already at {locations[name]}"
        else:
            locations[name] = location
            continue
        if named:
            raise DataError(f"{location}: {problem}; correct the row, or name another id column")
        logger.warning("%s: %s; the rows of this file are numbered from 0 instead", location, problem)
        return False
    return True
