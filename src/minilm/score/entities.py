"""Entities of tagged words, and how many of them were found: the numbers of seqeval.

In: the tags of the words of each sentence, gold and predicted, such as B-PER, I-PER and O. Out: entities as spans of
words; precision, recall and F1, times 100, of all entities and of each type.

By default, as in conlleval, an I- tag that continues nothing begins an entity. Strictly (IOB2) only a B- tag does, and
other words are in no entity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minilm.score.classification import RATES, LabelCounts, average_metrics, average_rows, label_rows

METRICS = ("f1", "precision", "recall", "strict_f1", "strict_precision", "strict_recall", "accuracy")
"""What `entity_metrics` returns: seqeval's default numbers, its strict ones in IOB2, the share of equal tags."""

_WAYS = (("", False), ("strict_", True))
_PREFIXES = ("B", "I", "E", "S")

Tags = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """An entity: its type, its first word, and the word after its last one."""

    type: str
    start: int
    end: int


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix and type of a tag: `B-PER` is B and PER, `O` has no type; a tag without a prefix continues its like."""
    if tag == "O":
        return "O", ""
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind) if dash and prefix in _PREFIXES else ("I", tag)


def continues(before: tuple[str, str], tag: tuple[str, str]) -> bool:
    """Whether a tag continues the entity of the tag before it, both as `split_tag` returns them."""
    return tag[0] in ("I", "E") and before[0] in ("B", "I") and before[1] == tag[1]


def entity_spans(tags: Sequence[str], *, strict: bool = False) -> list[Span]:
    """The entities of one sentence, in order; see the module for `strict`."""
    found: list[Span] = []
    before, first = ("O", ""), -1
    for index, tag in enumerate(map(split_tag, (*tags, "O"))):
        if not continues(before, tag):
            if first >= 0:
                found.append(Span(type=before[1], start=first, end=index))
            begins = tag[0] == "B" if strict else tag[0] != "O"
            first = index if begins else -1
        before = tag
    return found


def count_entities(gold: Tags, found: Tags, *, strict: bool = False) -> tuple[tuple[str, ...], LabelCounts]:
    """The types that occur on either side, sorted, and the counts of each; sentences in the same order on both."""
    counts: tuple[Counter[str], ...] = (Counter(), Counter(), Counter())
    for ours, theirs in zip(gold, found, strict=True):
        right, given = set(entity_spans(ours, strict=strict)), set(entity_spans(theirs, strict=strict))
        for counter, spans in zip(counts, (right, given, right & given), strict=True):
            counter.update(span.type for span in spans)
    types = tuple(sorted({*counts[0], *counts[1]}))
    references, predictions, both = (np.array([one[name] for name in types], dtype=np.int64) for one in counts)
    return types, LabelCounts(references=references, predictions=predictions, both=both)


def entity_metrics(gold: Tags, found: Tags) -> dict[str, float]:
    """The numbers of `METRICS` over all entities, times 100 (seqeval's micro average)."""
    numbers: dict[str, float] = {}
    for prefix, strict in _WAYS:
        averages = average_metrics(count_entities(gold, found, strict=strict)[1])
        numbers |= {f"{prefix}{rate}": averages[f"micro_{rate}"] for rate in ("f1", "precision", "recall")}
    pairs = [pair for ours, theirs in zip(gold, found, strict=True) for pair in zip(ours, theirs, strict=True)]
    return {**numbers, "accuracy": 100 * sum(one == other for one, other in pairs) / max(1, len(pairs))}


def entity_averages(gold: Tags, found: Tags) -> dict[str, float]:
    """The mean over the types and that mean weighted by their entities: `macro_f1` to `strict_weighted_recall`."""
    return {
        f"{prefix}{name}": value
        for prefix, strict in _WAYS
        for name, value in average_metrics(count_entities(gold, found, strict=strict)[1]).items()
        if not name.startswith("micro_")
    }


def entity_rows(gold: Tags, found: Tags) -> list[dict[str, object]]:
    """A row per type and average: both kinds of scores, then how many entities both sides have by default."""
    types, counts = count_entities(gold, found)
    strict_types, strict = count_entities(gold, found, strict=True)
    own = {row["label"]: row for row in (*label_rows(strict_types, strict), *average_rows(strict))}
    return [
        {
            "type": row["label"],
            **{rate: row[rate] for rate in RATES},
            **{f"strict {rate}": own[row["label"]][rate] if row["label"] in own else 0.0 for rate in RATES},
            "references": row["references"],
            "predictions": row["predictions"],
        }
        for row in (*label_rows(types, counts), *average_rows(counts))
    ]
