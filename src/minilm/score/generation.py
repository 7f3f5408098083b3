"""BLEU-1 to -4, METEOR and ROUGE-L of the COCO caption evaluation, as papers on question generation report them.

In: K items, each a text and all its references, with words separated by spaces. Out: one row of sufficient
statistics per item. Scores are computed from summed rows: all rows for the corpus, or those of a bootstrap sample.
Source: pycocoevalcap 1.2 and nqg's qgevalcap; checked against both, and METEOR against the Java program.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError
from minilm.score.rouge.lcs import lcs_length

FloatArray = NDArray[np.float64]

GENERATION_METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L")
METEOR_NUMBERS = 23
"""Number of statistics that METEOR 1.5 outputs per item."""
_ORDERS = (1, 2, 3, 4)
_BLEU_NUMBERS = 2 + 2 * len(_ORDERS)
_TINY, _SMALL = 1e-15, 1e-9  # added to the numerators and denominators of BLEU
_BETA = 1.2  # weight of recall relative to precision in ROUGE-L
# METEOR 1.5, English, task "rank": weights of exact, stem, synonym and paraphrase matches, and the four parameters.
_MODULES = np.array([1.0, 0.6, 0.8, 0.6])
_CHUNKS = 20  # index of the chunk count in METEOR's statistics
_ALPHA, _METEOR_BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75


@dataclass(frozen=True, kw_only=True)
class ScoredText:
    """A text and its references, at least one."""

    text: str
    references: tuple[str, ...]


def pool(
    predictions: Sequence[str], references: Sequence[Sequence[str]], keys: Sequence[str] | None = None
) -> list[ScoredText]:
    """Merge all rows with the same key into one item: all their references, and the last of their predictions.

    This is the rule of the evaluation of Du et al. 2017, where the key is the source sentence; it changes BLEU-4 by
    several points. Whitespace is normalized to single spaces.

    Args:
        predictions: one per row.
        references: at least one per row.
        keys: one per row, compared in lowercase; without keys, every row is an item.

    Returns:
        items in order of the first occurrence of their keys.

    Raises:
        DataError: there is nothing to score, or the counts differ.
    """
    names = list(map(str, range(len(predictions)))) if keys is None else [_plain(key).lower() for key in keys]
    if not predictions or not len(predictions) == len(references) == len(names):
        raise DataError(
            f"found {len(predictions):,} predictions, references for {len(references):,} rows and {len(names):,} "
            f"sources; expected equal counts, at least 1"
        )
    pooled: dict[str, list[str]] = {}
    for name, texts in zip(names, references, strict=True):
        pooled.setdefault(name, []).extend(map(_plain, texts))
    last = dict(zip(names, map(_plain, predictions), strict=True))
    return [ScoredText(text=last[name], references=tuple(texts)) for name, texts in pooled.items()]


def _plain(text: str) -> str:
    return " ".join(text.split())


def sums_of(items: Sequence[ScoredText], meteor: FloatArray | None = None) -> FloatArray:
    """Compute the sufficient statistics of the scores.

    Args:
        items: K items.
        meteor: `[K, 23]`, their METEOR 1.5 statistics; see `minilm.files.meteor_java`.

    Returns:
        `[K, 11]`, or `[K, 34]` with METEOR; rows are additive.
    """
    rows = np.array([[*bleu_counts(one), coco_rouge_l(one)] for one in items], dtype=np.float64)
    return rows if meteor is None else np.hstack([rows, _without_whole_chunks(meteor)])


def _without_whole_chunks(numbers: FloatArray) -> FloatArray:
    """Set the chunk count of texts that match a reference completely to 0, as METEOR does before summing."""
    texts: FloatArray = numbers.copy()
    all_matched = (texts[:, 4:20].reshape(-1, 8, 2).sum(axis=1) == texts[:, 0:2]).all(axis=1)
    texts[all_matched & (texts[:, _CHUNKS] == 1), _CHUNKS] = 0
    return texts


def generation_metrics(sums: FloatArray, num_items: int) -> dict[str, float]:
    """Compute the scores, times 100, from statistics summed over items.

    Args:
        sums: `[11]` or `[34]`, the sum of rows of `sums_of`.
        num_items: number of rows in the sum.

    Returns:
        `GENERATION_METRICS` and their values; METEOR is NaN when `sums` lacks it.
    """
    bleu = bleu_scores(sums[:_BLEU_NUMBERS])
    meteor = sums[_BLEU_NUMBERS + 1 :]
    values = [*bleu, meteor_score(meteor) if len(meteor) else math.nan, float(sums[_BLEU_NUMBERS]) / num_items]
    return {name: 100.0 * value for name, value in zip(GENERATION_METRICS, values, strict=True)}


def bleu_counts(item: ScoredText) -> list[int]:
    """Counts for BLEU: words, words of the reference closest in length, n-grams, and matching n-grams."""
    words = item.text.split()
    references = [reference.split() for reference in item.references]
    closest = min((abs(len(other) - len(words)), len(other)) for other in references)[1]
    given, matched = [], []
    for order in _ORDERS:
        grams = _ngrams(words, order)
        most: Counter[tuple[str, ...]] = reduce(or_, (_ngrams(other, order) for other in references))
        given.append(sum(grams.values()))
        matched.append((grams & most).total())
    return [len(words), closest, *given, *matched]


def bleu_scores(counts: FloatArray) -> list[float]:
    """Compute BLEU-1 to -4, from 0 to 1, from summed `bleu_counts` `[10]`."""
    ratio = (float(counts[0]) + _TINY) / (float(counts[1]) + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for order, given, matched in zip(_ORDERS, counts[2:6].tolist(), counts[6:10].tolist(), strict=True):
        product *= (matched + _TINY) / (given + _SMALL)
        scores.append(product ** (1 / order) * brevity)
    return scores


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def coco_rouge_l(item: ScoredText) -> float:
    """Compute ROUGE-L of one item, from 0 to 1: the best precision and the best recall over the references."""
    words = item.text.split(" ")  # an empty text is one empty word, as in pycocoevalcap
    lists = [reference.split(" ") for reference in item.references]
    common = [lcs_length(other, words) for other in lists]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, lists, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def meteor_score(numbers: FloatArray) -> float:
    """Compute METEOR 1.5 for English, from 0 to 1, from the METEOR statistics `[23]` of one row or of summed rows.

    The statistics: words of text and reference; function words of both; for each match type, the content words of
    both and the function words of both; chunks (0 for a complete match); matched words of text and reference.
    """
    words, function_words = numbers[0:2], numbers[2:4]
    matches = numbers[4:20].reshape(4, 2, 2)  # [kind, content or function, text or reference]
    weighted = _MODULES @ (_DELTA * matches[:, 0] + (1 - _DELTA) * matches[:, 1])
    lengths = _DELTA * (words - function_words) + (1 - _DELTA) * function_words
    precision, recall = (float(part / whole) if whole else 0.0 for part, whole in zip(weighted, lengths, strict=True))
    if not precision or not recall:
        return 0.0
    mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    fragments = float(numbers[_CHUNKS]) / (float(numbers[_CHUNKS + 1 :].sum()) / 2)
    return mean * (1 - _GAMMA * math.pow(fragments, _METEOR_BETA))
