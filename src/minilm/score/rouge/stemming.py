"""English stemming as in ROUGE-1.5.5: irregular forms from a table, all others with its Porter stemmer.

In: one lowercase word of ASCII letters and digits. Out: its stem; words with equal stems match.
The stemmer is that of the Perl program, not of the paper: it handles `logi` and `bli`, and step 4 can strip twice
(accidental -> accident -> accid). The table is WordNet 2.0's list of exceptions, `wordnet_exceptions.txt`, without the
entries that have no effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files

_LONGEST_UNSTEMMED = 3

# A word is parsed as [C]VCVC..[V]: C consonants, V vowels; y is a vowel after a consonant. m counts the VC pairs.
_C, _V = "[^aeiou][^aeiouy]*", "[aeiouy][aeiou]*"
_M_ABOVE_0 = re.compile(f"(?:{_C})?{_V}{_C}")
_M_ABOVE_1 = re.compile(f"(?:{_C})?{_V}{_C}{_V}{_C}")
_M_IS_1 = re.compile(f"(?:{_C})?{_V}{_C}(?:{_V})?$")
_HAS_VOWEL = re.compile(f"(?:{_C})?[aeiouy]")
_SHORT = re.compile(f"{_C}[aeiouy][^aeiouwxy]$")  # hop, fil: a final e is missing

_DOUBLED = re.compile(r"([^aeiouylsz])\1$")
_STEP_2: Mapping[str, str] = {
    "ational": "ate",
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "izer": "ize",
    "bli": "ble",
    "alli": "al",
    "entli": "ent",
    "eli": "e",
    "ousli": "ous",
    "ization": "ize",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "iveness": "ive",
    "fulness": "ful",
    "ousness": "ous",
    "aliti": "al",
    "iviti": "ive",
    "biliti": "ble",
    "logi": "log",
}
_STEP_3: Mapping[str, str] = {
    "icate": "ic",
    "ative": "",
    "alize": "al",
    "iciti": "ic",
    "ical": "ic",
    "ful": "",
    "ness": "",
}
_STEP_4: Mapping[str, str] = dict.fromkeys(
    ["al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ou", "ism", "ate", "iti", "ous", "ive", "ize"],
    "",
)


def _ending(suffixes: Mapping[str, str]) -> re.Pattern[str]:
    """Match the longest suffix at the end of a word."""
    return re.compile(f"(?:{'|'.join(suffixes)})$")


_ENDINGS = tuple((_ending(table), table) for table in (_STEP_2, _STEP_3, _STEP_4))


@lru_cache(maxsize=2**17)
def rouge_stem(word: str) -> str:
    """Stem a word as ROUGE-1.5.5 does with `-m`; words of at most three letters are unchanged.

    Args:
        word: one lowercase word of ASCII letters and digits.

    Returns:
        the base form from WordNet's exceptions (better -> well), else the Porter stem.
    """
    if len(word) <= _LONGEST_UNSTEMMED:
        return word
    return word_exceptions().get(word) or porter_stem(word)


@cache
def word_exceptions() -> Mapping[str, str]:
    """Return the irregular forms and their base forms, from the table next to this file."""
    lines = files("minilm.score.rouge").joinpath("wordnet_exceptions.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ") for line in lines if line and not line.startswith("#"))


def porter_stem(word: str) -> str:
    """Stem a lowercase word as the Perl program's Porter stemmer does (an initial y is a consonant)."""
    if len(word) < 3:
        return word
    stem = _without_plural(("Y" if word[0] == "y" else word[0]) + word[1:])
    stem = _without_ed_or_ing(stem)
    if stem.endswith("y") and _HAS_VOWEL.match(stem[:-1]):
        stem = f"{stem[:-1]}i"
    for (pattern, table), measure in zip(_ENDINGS, (_M_ABOVE_0, _M_ABOVE_0, _M_ABOVE_1), strict=True):
        found = pattern.search(stem)
        if found and measure.match(stem[: found.start()]):
            stem = stem[: found.start()] + table[found[0]]
    stem = _without_end(_without_ment_ent_ion(stem))
    return ("y" if word[0] == "y" else stem[0]) + stem[1:]


def _without_plural(word: str) -> str:
    """Step 1a."""
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and word[-2] != "s" else word


def _without_ed_or_ing(word: str) -> str:
    """Step 1b."""
    if word.endswith("eed"):
        return word[:-1] if _M_ABOVE_0.match(word[:-3]) else word
    stem = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else ""
    if not _HAS_VOWEL.match(stem):
        return word
    if stem.endswith(("at", "bl", "iz")):
        return f"{stem}e"
    if _DOUBLED.search(stem):
        return stem[:-1]
    return f"{stem}e" if _SHORT.match(stem) else stem


def _without_ment_ent_ion(word: str) -> str:
    """The end of step 4, where the Perl program deviates: each of these may be stripped after another suffix."""
    if word.endswith("ment") and _M_ABOVE_1.match(word[:-4]):
        word = word[:-4]
    if word.endswith("ent"):
        return word[:-3] if _M_ABOVE_1.match(word[:-3]) else word
    return word[:-3] if word.endswith(("sion", "tion")) and _M_ABOVE_1.match(word[:-3]) else word


def _without_end(word: str) -> str:
    """Step 5: a final e, and one l of a final double l."""
    stem = word[:-1]
    if word.endswith("e") and (_M_ABOVE_1.match(stem) or (_M_IS_1.match(stem) and not _SHORT.match(stem))):
        word = stem
    return word[:-1] if word.endswith("ll") and _M_ABOVE_1.match(word) else word
