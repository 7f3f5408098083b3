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

METRICS = ("f1", "precision", "recall", "strict_f1", "strict_precision", "strict_recall", "accuracy")
"""What `entity_metrics` returns: seqeval's default numbers, its strict ones in IOB2, the share of equal tags."""

_PREFIXES = ("B", "I", "E", "S")

Tags = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """An entity: its type, its first word, and the word after its last one."""

    type: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EntityCounts:
    """Numbers of entities: gold, predicted, and equal in both; the scores are 0 where they are undefined."""

    gold: int
    found: int
    both: int

    @property
    def precision(self) -> float:
        """Share of the predicted entities that are right, times 100."""
        return 100 * self.both / max(1, self.found)

    @property
    def recall(self) -> float:
        """Share of the gold entities that were found, times 100."""
        return 100 * self.both / max(1, self.gold)

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 200 * self.both / max(1, self.gold + self.found)


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


def count_entities(gold: Tags, found: Tags, *, strict: bool = False) -> dict[str, EntityCounts]:
    """The counts of each type that occurs on either side, sorted by name; sentences in the same order on both."""
    counts: tuple[Counter[str], ...] = (Counter(), Counter(), Counter())
    for ours, theirs in zip(gold, found, strict=True):
        right, given = set(entity_spans(ours, strict=strict)), set(entity_spans(theirs, strict=strict))
        for counter, spans in zip(counts, (right, given, right & given), strict=True):
            counter.update(span.type for span in spans)
    of_gold, of_found, of_both = counts
    return {
        name: EntityCounts(gold=of_gold[name], found=of_found[name], both=of_both[name])
        for name in sorted({*of_gold, *of_found})
    }


def entity_metrics(gold: Tags, found: Tags) -> dict[str, float]:
    """The numbers of `METRICS` over all entities, times 100 (seqeval's micro average)."""
    numbers: dict[str, float] = {}
    for prefix, strict in (("", False), ("strict_", True)):
        types = count_entities(gold, found, strict=strict).values()
        total = EntityCounts(
            gold=sum(one.gold for one in types),
            found=sum(one.found for one in types),
            both=sum(one.both for one in types),
        )
        numbers |= {f"{prefix}f1": total.f1, f"{prefix}precision": total.precision, f"{prefix}recall": total.recall}
    pairs = [pair for ours, theirs in zip(gold, found, strict=True) for pair in zip(ours, theirs, strict=True)]
    return {**numbers, "accuracy": 100 * sum(one == other for one, other in pairs) / max(1, len(pairs))}


def entity_table(gold: Tags, found: Tags) -> list[dict[str, object]]:
    """One row per type: counts, seqeval's default scores, and its strict F1."""
    strict = count_entities(gold, found, strict=True)
    nothing = EntityCounts(gold=0, found=0, both=0)
    return [
        {
            "type": name,
            "gold": counts.gold,
            "predicted": counts.found,
            "both": counts.both,
            "precision": counts.precision,
            "recall": counts.recall,
            "f1": counts.f1,
            "strict f1": strict.get(name, nothing).f1,
        }
        for name, counts in count_entities(gold, found).items()
    ]
