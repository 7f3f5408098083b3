"""Documents and queries of files, or of a folder in BEIR's layout.

In: rows with a text, one text per line, or a folder with `corpus.jsonl` and `queries.jsonl`. Out: texts with different
ids, in file order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from minilm.errors import DataError, UsageError
from minilm.files.regular import without_surrogates
from minilm.infer.bulk.embed import TextToEmbed, read_texts

Kind = Literal["documents", "queries"]

_BEIR = {"documents": ("corpus", ("title", "text")), "queries": ("queries", ("text",))}
_BEIR_ID = "_id"
_TEXT = "text"


def source_of_texts(path: Path, kind: Kind) -> Path:
    """The file with the texts: the path itself, or that of a folder in BEIR's layout, optionally .gz.

    Raises:
        UsageError: the folder has no such file.
    """
    if not is_beir(path):
        return path
    stem = _BEIR[kind][0]
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (path / name).is_file():
            return path / name
    raise UsageError(f"{path}: a folder without {stem}.jsonl; name a file with the {kind}")


def is_beir(path: Path) -> bool:
    """Whether texts are named by a folder."""
    return path.is_dir()


def read_unique_texts(
    path: Path, kind: Kind, *, columns: Sequence[str], id_column: str | None
) -> Iterator[TextToEmbed]:
    """Yield the texts one by one.

    Args:
        path: a file, or a folder in BEIR's layout: its documents are titles and texts, joined by a space as there.
        kind: what they are.
        columns: columns of the text, joined by a space; empty: `text`.
        id_column: column of the id; None: the first of `id`, `idx` and `index` that exists, else the row from 0.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, lacks a column, or repeats an id, an id is not Unicode, or there is no row;
            names file and line.
    """
    source = source_of_texts(path, kind)
    if is_beir(path):
        columns, id_column = columns or _BEIR[kind][1], id_column or _BEIR_ID
    seen: dict[str, str] = {}
    for one in read_texts(source, columns=columns or (_TEXT,), id_column=id_column):
        if without_surrogates(one.id) != one.id:
            raise DataError(f"{one.location}: id {one.id!r:.80} has a lone surrogate; expected Unicode; correct it")
        if one.id in seen:
            raise DataError(f"{one.location}: id {one.id!r:.80} is already in {seen[one.id]}; keep one of each")
        seen[one.id] = one.location
        yield one
    if not seen:
        raise DataError(f"{source}: no {kind} found; expected at least one row")
