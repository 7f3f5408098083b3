"""Tag schemes: which one the tags of a file follow, and the same entities in IOB2.

In: the tags of the words of each sentence. Out: the scheme, and the tags in IOB2, where B- begins every entity.

| scheme | begins with | continues with |
|---|---|---|
| IOB1 | I-, or B- directly after an entity of the same type | I- |
| IOB2 | B- | I- |
| IOBES | B-, or S- if it is one word | I-, E- for its last word |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from minilm.score.entities import continues, split_tag

Scheme = Literal["IOB1", "IOB2", "IOBES"]
Tags = Sequence[Sequence[str]]

_OUTSIDE = ("O", "")
_IOB2_PREFIX = {"E": "I", "S": "B"}
_IN_IOBES = {"L": "E", "U": "S", "M": "I", "W": "S"}
"""Letters of BILOU (last, unit) and BMEWO (middle, whole): the prefix in IOBES."""
_PREFIX_FIRST = re.compile(r"([BIESLUMW])[-_:/](.+)")
_PREFIX_LAST = re.compile(r"(.+)[-_:/]([BIESLUMW])")


class TagError(ValueError):
    """A tag that its scheme does not allow.

    Attributes:
        sentence: index of the sentence.
        word: index of the word in it.
    """

    def __init__(self, message: str, *, sentence: int, word: int) -> None:
        """Say what was found and what was expected."""
        super().__init__(message)
        self.sentence, self.word = sentence, word


def require_tag(tag: str) -> None:
    """Raise ValueError unless a tag is `O`, or has a prefix and a type."""
    kind = split_tag(tag)[1]
    if tag != "O" and (kind == tag or not kind):
        expected = "O, B-TYPE or I-TYPE (IOB1, IOB2), or with IOBES also E-TYPE and S-TYPE"
        raise ValueError(f"found tag {tag!r:.60}, expected {expected}{_instead(tag)}")


def _instead(tag: str) -> str:
    """What to write for a tag of another notation: the prefix last, another separator, other letters for E- and S-."""
    first, last = _PREFIX_FIRST.fullmatch(tag), _PREFIX_LAST.fullmatch(tag)
    if not first and not last:
        return ""
    prefix, kind = first.groups() if first else reversed(last.groups() if last else ())
    iobes = _IN_IOBES.get(prefix, prefix)
    how = "" if iobes == prefix else f" ({', '.join(f'{other}- is {ours}-' for other, ours in _IN_IOBES.items())})"
    return f"; write it as {f'{iobes}-{kind}'!r:.60}, and the other tags in the same way{how}"


def find_scheme(tags: Tags) -> Scheme:
    """The scheme that all sentences follow; IOB2 if it makes no difference.

    Raises:
        TagError: they follow none; the first tag that contradicts the others.
    """
    prefixes = {split_tag(tag)[0] for sentence in tags for tag in sentence}
    if prefixes & {"E", "S"}:
        return "IOBES"
    orphan = next(_orphans(tags), None)
    if orphan is None:
        return "IOB2"
    for sentence, word, before, tag in _pairs(tags):
        if tag[0] == "B" and before[1] != tag[1]:  # in IOB1, B- only separates it from its like
            other = tags[orphan[0]][orphan[1]]
            raise TagError(
                f"found tag {tags[sentence][word]!r}, which begins an entity as in IOB2, and elsewhere {other!r}, "
                "which begins one as in IOB1: correct the tags, or set task.scheme (score tokens: --scheme) to IOB1 "
                "to let both begin an entity",
                sentence=sentence,
                word=word,
            )
    return "IOB1"


def to_iob2(tags: Tags, scheme: Scheme) -> list[list[str]]:
    """The same entities in IOB2.

    Raises:
        TagError: a tag that the scheme does not allow. With IOB1 every B- begins an entity, also where I- would do.
    """
    _require_prefixes(tags, scheme)
    if scheme == "IOB1":
        return [
            [
                f"B-{kind}" if prefix == "I" and not continues(before, (prefix, kind)) else tag
                for tag, before, (prefix, kind) in _with_previous(sentence)
            ]
            for sentence in tags
        ]
    if scheme == "IOB2":
        for sentence, word in _orphans(tags):
            raise TagError(
                f"found tag {tags[sentence][word]!r} where no entity of its type precedes; in IOB2 an entity begins "
                "with B-: correct the tag, or set task.scheme (score tokens: --scheme) to IOB1 to let it begin one",
                sentence=sentence,
                word=word,
            )
        return [list(sentence) for sentence in tags]
    _require_iobes(tags)
    return [[iob2_name(tag) for tag in sentence] for sentence in tags]


def iob2_name(tag: str) -> str:
    """The tag under its IOB2 prefix: E- becomes I-, S- becomes B-."""
    prefix, kind = split_tag(tag)
    return f"{_IOB2_PREFIX[prefix]}-{kind}" if prefix in _IOB2_PREFIX else tag


def iob2_labels(names: Sequence[str]) -> tuple[str, ...]:
    """The labels of a model that predicts IOB2: `names` in their order, then what is missing of O and each type."""
    found = dict.fromkeys(iob2_name(name) for name in names)
    types = dict.fromkeys(split_tag(name)[1] for name in found if name != "O")
    return tuple(dict.fromkeys((*found, "O", *(f"{prefix}-{kind}" for kind in types for prefix in ("B", "I")))))


def _with_previous(sentence: Sequence[str]) -> Iterator[tuple[str, tuple[str, str], tuple[str, str]]]:
    """Each tag, and prefix and type of the tag before it and of its own."""
    before = _OUTSIDE
    for tag in sentence:
        own = split_tag(tag)
        yield tag, before, own
        before = own


def _pairs(tags: Tags) -> Iterator[tuple[int, int, tuple[str, str], tuple[str, str]]]:
    """Indices of sentence and word, the tag before it, its own."""
    for number, sentence in enumerate(tags):
        for word, (_, before, own) in enumerate(_with_previous(sentence)):
            yield number, word, before, own


def _orphans(tags: Tags) -> Iterator[tuple[int, int]]:
    """Sentence and word of each I- that continues nothing."""
    return (
        (number, word) for number, word, before, own in _pairs(tags) if own[0] == "I" and not continues(before, own)
    )


def _require_prefixes(tags: Tags, scheme: Scheme) -> None:
    allowed = ("O", "B", "I", "E", "S") if scheme == "IOBES" else ("O", "B", "I")
    for number, word, _, own in _pairs(tags):
        if own[0] not in allowed:
            raise TagError(
                f"found tag {tags[number][word]!r}, expected O, B-TYPE or I-TYPE, because task.scheme is {scheme}: "
                "correct one of the two (score tokens: --scheme)",
                sentence=number,
                word=word,
            )


def _require_iobes(tags: Tags) -> None:
    for number, sentence in enumerate(tags):
        before, was = _OUTSIDE, "the beginning"
        for word, tag in enumerate((*sentence, "O")):
            own = split_tag(tag)
            is_open = before[0] in ("B", "I")
            if is_open != continues(before, own) or (own[0] in ("I", "E") and not is_open):
                is_end = word == len(sentence)
                found = f"the end of the sentence after {was}" if is_end else f"tag {tag!r} after {was}"
                raise TagError(
                    f"found {found}; in IOBES an entity is S-, or B- then I- up to E-, of one type: correct the tags",
                    sentence=number,
                    word=min(word, len(sentence) - 1),
                )
            before, was = own, repr(tag)
