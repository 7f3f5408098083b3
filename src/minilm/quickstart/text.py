"""Text and a labeled task that require no download.

In: nothing (the docstrings of the standard library and the language reference that ship with Python), or
the user's files. Out: paragraphs for distillation, and labeled paragraphs split into train and held-out.

The task: which module of the standard library does this paragraph document? With user files: which file does
it come from (with a single file: which tenth of it).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minilm.corpus.settings import CorpusSettings
from minilm.errors import DataError, SystemProblem
from minilm.files.texts import read_texts
from minilm.tally import Tally
from minilm.text.installed import docstrings, manual

MIN_WORDS = 8
NUM_CLASSES = 12
MIN_PER_CLASS, MAX_PER_CLASS = 20, 100
_HELDOUT_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A paragraph and the index of its label."""

    text: str
    label: int


@dataclass(frozen=True, kw_only=True)
class QuickstartText:
    """Input of the quickstart; no held-out paragraph is in `unlabelled`."""

    source: str
    question: str
    labels: tuple[str, ...]
    train: tuple[Labelled, ...]
    heldout: tuple[Labelled, ...]
    unlabelled: tuple[str, ...]


def installed_text() -> QuickstartText:
    """Docstrings of the standard library, labeled by module, and the language reference, unlabeled.

    Raises:
        SystemProblem: this Python was installed without its sources.
    """
    rows = [(module, text) for module, docstring in docstrings() for text in _paragraphs([docstring])]
    if len(rows) < 1000:
        raise SystemProblem(
            "this Python has too few docstrings for the quickstart (was it installed without its sources?); "
            "provide your own text: minilm quickstart --text FILES"
        )
    return _assemble(
        rows,
        more=_paragraphs(manual()),
        source="docstrings of the Python standard library and the language reference",
        question="which module does this paragraph document?",
    )


def text_of_files(files: Sequence[Path]) -> QuickstartText:
    """The paragraphs of the user's files, labeled by file (or by tenth of a single file).

    Raises:
        DataError: a file cannot be read, or there are too few paragraphs for a task.
    """
    tally = Tally()
    once = len({path.name for path in files}) == len(files)
    by_file = {}
    for path in files:
        texts = read_texts([path], max_bad_rows=CorpusSettings.max_bad_rows, tally=tally)
        by_file[path.name if once else str(path)] = list(_paragraphs(texts))
    tally.report()
    if len(by_file) > 1:
        rows = [(name, text) for name, texts in by_file.items() for text in texts]
        question = "which file does this paragraph come from?"
    else:
        only = next(iter(by_file.values()), [])
        rows = [(f"part {10 * index // len(only) + 1}", text) for index, text in enumerate(only)]
        question = "which tenth of the file does this paragraph come from?"
    return _assemble(rows, more=(), source=", ".join(by_file), question=question)


def _assemble(rows: Iterable[tuple[str, str]], *, more: Iterable[str], source: str, question: str) -> QuickstartText:
    """Pick classes, split them by a hash of the text (equal on every machine), keep the rest unlabeled."""
    unique = dict.fromkeys(rows)
    times = Counter(text for _, text in unique)
    unique = dict.fromkeys((name, text) for name, text in unique if times[text] == 1)
    counts = Counter(name for name, _ in unique)
    labels = tuple(sorted(name for name, count in counts.most_common(NUM_CLASSES) if count >= MIN_PER_CLASS))
    if len(labels) < 2:
        raise DataError(
            f"{source}: found {sum(counts.values())} paragraphs of at least {MIN_WORDS} words in {len(counts)} "
            f"classes; expected at least 2 classes of {MIN_PER_CLASS}; provide more text"
        )
    train: list[Labelled] = []
    heldout: list[Labelled] = []
    for index, name in enumerate(labels):
        texts = sorted((text for owner, text in unique if owner == name), key=_rank)[:MAX_PER_CLASS]
        cut = round(len(texts) * _HELDOUT_SHARE)
        heldout += [Labelled(text=text, label=index) for text in texts[:cut]]
        train += [Labelled(text=text, label=index) for text in texts[cut:]]
    kept_back = {row.text for row in heldout}
    unlabelled = dict.fromkeys(text for text in (*(text for _, text in unique), *more) if text not in kept_back)
    return QuickstartText(
        source=source,
        question=question,
        labels=labels,
        train=tuple(train),
        heldout=tuple(heldout),
        unlabelled=tuple(sorted(unlabelled, key=_rank)),
    )


def _rank(text: str) -> str:
    """Sort key of a fixed pseudo-random order that depends only on the text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    """Paragraphs (between blank lines) of each text with at least `MIN_WORDS` words, whitespace collapsed."""
    for text in texts:
        for part in re.split(r"\n\s*\n", text):
            words = part.split()
            if len(words) >= MIN_WORDS and ">>>" not in words:
                yield " ".join(words)
