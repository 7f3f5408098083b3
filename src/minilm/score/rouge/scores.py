"""ROUGE-1, -2 and -L as in ROUGE-1.5.5: the words, bigrams and subsequences that two summaries share.

In: a prediction and its references as texts, with sentences separated by newlines; a stemmer. Out: precision, recall
and F for each of B pairs, and their means times 100. `rougeL` treats a text as one sentence; `rougeLsum`, which papers
on multi-sentence summaries report as ROUGE-L, takes the union of subsequences over sentences. With several references,
hits and lengths are summed over them (the program's `-f A`). Checked against the program's output per pair.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError
from minilm.score.rouge.lcs import lcs_length, lcs_positions
from minilm.tally import reporting_tally

FloatArray = NDArray[np.float64]
Stemmer = Callable[[str], str]

ROUGE_METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ROUGE_PARTS = ("precision", "recall", "f")
WORDLESS = "have a side without a word that ROUGE counts (letters A to Z and digits), so their ROUGE is 0"
_WORD = re.compile("[A-Za-z0-9]+")
_Sentences = list[list[str]]
_Unit = TypeVar("_Unit")


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Overlap of two texts: `hits` among `predicted` and `expected` units (words or bigrams)."""

    hits: int
    predicted: int
    expected: int

    def __add__(self, other: Overlap) -> Overlap:
        """Sum the counts over several references."""
        return Overlap(
            hits=self.hits + other.hits,
            predicted=self.predicted + other.predicted,
            expected=self.expected + other.expected,
        )

    @property
    def precision(self) -> float:
        """Share of predicted units that are expected, from 0 to 1."""
        return self.hits / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of expected units that are predicted, from 0 to 1."""
        return self.hits / self.expected if self.expected else 0.0

    @property
    def f(self) -> float:
        """Harmonic mean of precision and recall, from 0 to 1."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def rouge_words(text: str, stem: Stemmer) -> _Sentences:
    """Split a text at newlines into sentences, and these into stemmed words: runs of ASCII letters and digits."""
    return [[stem(word.lower()) for word in _WORD.findall(line)] for line in text.split("\n")]


def is_wordless(text: str) -> bool:
    """Whether a text that is not blank has no word that ROUGE counts, as in Chinese, Russian or Greek."""
    return bool(text.strip()) and not _WORD.search(text)


def report_wordless(predictions: Sequence[str], references: Sequence[Sequence[str]], *, what: str) -> None:
    """Log the number of pairs that score 0 because one side is wordless; `what` names the pairs."""
    pairs = enumerate(zip(predictions, references, strict=True), 1)
    found = [f"pair {number}" for number, (text, others) in pairs if is_wordless(text) or all(map(is_wordless, others))]
    with reporting_tally() as tally:
        tally.add(f"{what} {WORDLESS}", found, of=len(predictions))


def rouge_pair(prediction: str, references: Sequence[str], *, stem: Stemmer) -> dict[str, Overlap]:
    """Compare one prediction with its references.

    Args:
        prediction: text; newlines separate sentences.
        references: at least one text in the same format.
        stem: words with equal stems match; `minilm.score.rouge.stemming.rouge_stem` is the stemmer of ROUGE-1.5.5.

    Returns:
        the overlap by metric name.
    """
    predicted = rouge_words(prediction, stem)
    first, *rest = (_overlaps(predicted, rouge_words(reference, stem)) for reference in references)
    for other in rest:
        first = {name: first[name] + other[name] for name in ROUGE_METRICS}
    return first


def rouge_scores(predictions: Sequence[str], references: Sequence[Sequence[str]], *, stem: Stemmer) -> FloatArray:
    """Compare B predictions with their references.

    Args:
        predictions: B texts; newlines separate sentences.
        references: at least one text per prediction.
        stem: see `rouge_pair`.

    Returns:
        `[B, 4, 3]`, from 0 to 1: `ROUGE_METRICS` by `ROUGE_PARTS`.

    Raises:
        DataError: there is nothing to score, or the counts differ.
    """
    if not predictions or len(predictions) != len(references):
        raise DataError(
            f"found {len(predictions):,} predictions and references for {len(references):,}; expected equal counts, "
            f"at least 1"
        )
    scores = np.empty((len(predictions), len(ROUGE_METRICS), len(ROUGE_PARTS)))
    for row, prediction, texts in zip(scores, predictions, references, strict=True):
        overlaps = rouge_pair(prediction, texts, stem=stem)
        row[:] = [[overlaps[name].precision, overlaps[name].recall, overlaps[name].f] for name in ROUGE_METRICS]
    return scores


def rouge_metrics(scores: FloatArray) -> dict[str, float]:
    """Average scores `[B, 4, 3]` over the pairs, times 100: F under each metric's name, then precision and recall.

    Returns:
        `rouge1`, `rouge2`, `rougeL`, `rougeLsum`, then `rouge1_precision`, `rouge1_recall` and so on.
    """
    means = 100.0 * scores.mean(axis=0)
    parts = {part: means[:, column].tolist() for column, part in enumerate(ROUGE_PARTS)}
    metrics = dict(zip(ROUGE_METRICS, parts["f"], strict=True))
    for name, precision, recall in zip(ROUGE_METRICS, parts["precision"], parts["recall"], strict=True):
        metrics |= {f"{name}_precision": precision, f"{name}_recall": recall}
    return metrics


def _overlaps(predicted: _Sentences, expected: _Sentences) -> dict[str, Overlap]:
    predicted_words, expected_words = list(chain(*predicted)), list(chain(*expected))
    words = {"predicted": len(predicted_words), "expected": len(expected_words)}
    return {
        "rouge1": _shared(Counter(predicted_words), Counter(expected_words)),
        "rouge2": _shared(Counter(pairwise(predicted_words)), Counter(pairwise(expected_words))),
        "rougeL": Overlap(hits=lcs_length(expected_words, predicted_words), **words),
        "rougeLsum": Overlap(hits=_union_hits(predicted, expected), **words),
    }


def _shared(predicted: Counter[_Unit], expected: Counter[_Unit]) -> Overlap:
    """Count the units that both sides share, with multiplicity."""
    return Overlap(hits=(predicted & expected).total(), predicted=predicted.total(), expected=expected.total())


def _union_hits(predicted: _Sentences, expected: _Sentences) -> int:
    """Count the words of each expected sentence that are in its LCS with any predicted sentence.

    A word counts at most as often as it occurs in the prediction.
    """
    left = Counter(chain(*predicted))
    hits = 0
    for sentence in expected:
        positions: set[int] = set().union(*(lcs_positions(sentence, other) for other in predicted))
        for position in sorted(positions):
            word = sentence[position]
            if left[word]:
                left[word] -= 1
                hits += 1
    return hits
