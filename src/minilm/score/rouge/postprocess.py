"""Postprocessing of generated summaries as in UniLM's evaluation, for XSum, CNN/DailyMail and Gigaword.

In: a prediction as the decoder writes it (words separated by spaces, sentences by `[X_SEP]`) or a reference
(CNN/DailyMail: sentences separated by ` <S_SEP> `). Out: the text to score, with sentences separated by newlines.
Verified line by line against the original, whose quirks are kept: `u . n .` becomes `u.n. .`, and quotation marks
alternate between opening and closing. Without a task, only the sentence separators change.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from minilm.errors import UsageError
from minilm.text.vocabulary import SENTENCE_END

SENTENCE_MARKS = re.compile(rf"\s*(?:{re.escape(SENTENCE_END)}|<S_SEP>|</?t>|\n)\s*")
"""Sentence separators in a text without a task: those of UniLM's data, of other models' output, and newline."""
_LEAST_WORDS = 5  # min words of a CNN/DailyMail sentence
_CNNDM_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_BRACKET_CODES = re.compile("-[lr][rsc]b-", re.IGNORECASE)
_GIGAWORD_WORDS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "[UNK]": "UNK",
    "<unk>": "UNK",
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
}


@dataclass(frozen=True, kw_only=True)
class SummaryTask:
    """How the summaries of a dataset are prepared.

    Attributes:
        words: replacements for full words.
        full: fix quotation marks and dashes too, not only contractions and numbers.
        trunc_len: max words of a prediction; 0: unlimited.
        duplicate_rate: drop a sentence if more than this share of its words occurred before; 0: keep all.
    """

    words: Mapping[str, str]
    full: bool
    trunc_len: int
    duplicate_rate: float


SUMMARY_TASKS: Mapping[str, SummaryTask] = {
    "xsum": SummaryTask(words={}, full=False, trunc_len=0, duplicate_rate=0),
    "cnndm": SummaryTask(words=_CNNDM_BRACKETS, full=True, trunc_len=60, duplicate_rate=0.7),
    "gigaword": SummaryTask(words=_GIGAWORD_WORDS, full=True, trunc_len=0, duplicate_rate=0),
}
"""The defaults are those of the original scripts; UniLM's README gives --trunc_len 160 for CNN/DailyMail."""


def plain_sentences(text: str) -> str:
    """Split a text without a task into sentences at the separators; nothing else changes."""
    return SENTENCE_MARKS.sub("\n", text).strip("\n")


def without_bracket_codes(text: str) -> str:
    """Remove the Penn Treebank's bracket codes, which ROUGE would count as words (`lrb`).

    Equivalent to UniLM's scoring with the Perl program, as in the papers: it maps the codes on both sides back to
    brackets, which are not words. Its alternative, py-rouge, counts them.
    """
    return _BRACKET_CODES.sub(" ", text)


def prepare_reference(text: str, task: str) -> str:
    """Prepare a reference; only CNN/DailyMail references are split into sentences, at ` <S_SEP> `."""
    _settings(task)
    return text.strip().replace(" <S_SEP> ", "\n") if task == "cnndm" else text.strip()


def prepare_prediction(
    text: str, task: str, *, trunc_len: int | None = None, duplicate_rate: float | None = None
) -> str:
    """Prepare a prediction as the original script of the task does.

    Args:
        text: one generated summary.
        task: `xsum`, `cnndm` or `gigaword`.
        trunc_len: max words; 0: unlimited; None: the task's default.
        duplicate_rate: for `cnndm`; 0 or 1: drop no repeated sentence; None: 0.7.

    Returns:
        the text to score, with sentences separated by newlines.

    Raises:
        UsageError: the task is unknown, or a number is out of range.
    """
    settings = _settings(task)
    length = settings.trunc_len if trunc_len is None else trunc_len
    rate = settings.duplicate_rate if duplicate_rate is None else duplicate_rate
    if length < 0 or not 0 <= rate <= 1:
        raise UsageError(
            f"trunc_len is {length} and duplicate_rate is {rate:g}; "
            f"expected trunc_len >= 0 and duplicate_rate in [0, 1]"
        )
    if task == "cnndm":
        sentences = _cnndm_sentences(text, settings)
        sentences = _without_repetitions(sentences, rate) if 0 < rate < 1 else sentences
    elif task == "xsum":
        sentences = [_bracket_codes(retokenize(text, settings), "()")]
    else:
        sentences = [retokenize(text, settings).replace("1", "#")]
    return "\n".join(_first_words(sentences, length) if length else sentences)


def _settings(task: str) -> SummaryTask:
    if task not in SUMMARY_TASKS:
        raise UsageError(f"unknown summary task {task!r}; expected one of {', '.join(SUMMARY_TASKS)}")
    return SUMMARY_TASKS[task]


def _cnndm_sentences(text: str, settings: SummaryTask) -> list[str]:
    """Split a prediction into sentences and drop those of at most four words."""
    found = (_bracket_codes(retokenize(part, settings), "()[]") for part in text.strip().split(SENTENCE_END))
    return [sentence for sentence in found if len(sentence.split()) >= _LEAST_WORDS]


def _bracket_codes(text: str, brackets: str) -> str:
    for bracket in brackets:
        text = text.replace(bracket, f" {_CNNDM_BRACKETS[bracket]} ")
    return re.sub("  +", " ", text)


def _without_repetitions(sentences: Sequence[str], rate: float) -> list[str]:
    """Drop sentences most of whose distinct words occurred before, dropped sentences included."""
    kept: list[str] = []
    seen: set[str] = set()
    for sentence in sentences:
        words = set(sentence.lower().split())
        if len(words & seen) / len(words) <= rate:
            kept.append(sentence)
        seen |= words
    return kept


def _first_words(sentences: Sequence[str], length: int) -> list[str]:
    kept: list[str] = []
    for sentence in sentences:
        words = sentence.split()[:length]
        kept.append(" ".join(words))
        length -= len(words)
        if not length:
            break
    return kept


@dataclass(kw_only=True)
class _Scan:
    """State of the conversion from the tokenizer's words to the evaluation's words.

    Attributes:
        words: the words of the text.
        at: index of the next word.
        out: the words produced so far.
        is_open: for each quotation mark, whether one is open.
    """

    words: Sequence[str]
    at: int = 0
    out: list[str] = field(default_factory=list)
    is_open: dict[str, bool] = field(default_factory=lambda: {'"': False, "'": False})

    def peek(self, ahead: int) -> str:
        """Return the word `ahead` positions further on, "" past the end."""
        return self.words[self.at + ahead] if self.at + ahead < len(self.words) else ""

    @property
    def last(self) -> str | None:
        """The last word produced; None before the first."""
        return self.out[-1] if self.out else None


_Rule = Callable[[_Scan], int]
"""A rule: produces the replacement of the next words and returns how many it consumed, 0 if it does not apply."""


def retokenize(text: str, settings: SummaryTask) -> str:
    """Rejoin what BERT's tokenizer split: contractions, numbers, initials; with `full` also dashes."""
    scan = _Scan(words=text.split())
    while scan.at < len(scan.words):
        word = scan.words[scan.at]
        if word in settings.words:
            scan.out.append(settings.words[word])
            scan.at += 1
            continue
        for rule in _FULL_RULES if settings.full else _RULES:
            if used := rule(scan):
                scan.at += used
                break
        else:
            scan.out.append(word)
            scan.at += 1
    return " ".join(scan.out)


def _contraction(scan: _Scan) -> int:
    """Turn `don ' t` into `do n't`, and `it ' s` into `it 's`."""
    if scan.words[scan.at] != "'":
        return 0
    following = scan.peek(1)
    if scan.last is not None and scan.last.endswith("n") and following == "t":
        scan.out[-1] = scan.last[:-1]
        scan.out.append("n't")
    elif following in ("s", "d", "ll"):
        scan.out.append(f"'{following}")
    else:
        return 0
    return 2


def _quotation(scan: _Scan) -> int:
    """Turn quotation marks into Penn Treebank marks, alternately opening and closing."""
    mark = scan.words[scan.at]
    if mark not in scan.is_open:
        return 0
    opening, closing = ("``", "''") if mark == '"' else ("`", "'")
    scan.out.append(closing if scan.is_open[mark] else opening)
    scan.is_open[mark] = not scan.is_open[mark]
    return 1


def _dots(scan: _Scan) -> int:
    """Turn `. . .` into `...`."""
    if scan.words[scan.at] != "." or scan.peek(1) != "." or scan.peek(2) != ".":
        return 0
    scan.out.append("...")
    return 3


def _number(scan: _Scan) -> int:
    """Turn `3 , 000` into `3,000`, and `3 . 03` into `3.03`."""
    mark = scan.words[scan.at]
    if scan.last is None or scan.at + 1 == len(scan.words):
        return 0
    sides = (scan.last, scan.peek(1))
    if mark == ",":
        fits = all(side.replace(",", "").isdigit() or not side.strip(",") for side in sides)
    else:
        fits = mark == "." and all(map(str.isdigit, sides))
    if fits:
        scan.out[-1] += mark + sides[1]
    return 2 if fits else 0


def _initials(scan: _Scan) -> int:
    """Turn `U . N .` into `U.N. .`: like the original, append both dots but leave the second in place."""
    if scan.words[scan.at] != "." or scan.last is None or not _is_initial(scan.last):
        return 0
    if not _is_initial(scan.peek(1)) or scan.peek(2) != ".":
        return 0
    used = 3
    while _is_initial(scan.peek(used + 1)) and scan.peek(used + 2) == ".":
        used += 2
    scan.out[-1] += "".join(scan.words[scan.at : scan.at + used])
    return 2


def _is_initial(word: str) -> bool:
    return len(word) == 1 and word.isupper()


def _dash(scan: _Scan) -> int:
    """Turn `- -` into `--`, and `well - known` into `well-known`."""
    if scan.words[scan.at] != "-":
        return 0
    following = scan.peek(1)
    if following == "-":
        scan.out.append("--")
        return 2
    # `in` tests for a substring, as in the original: several marks count as a word unless they occur in this order
    is_word = scan.last is not None and scan.last not in string.punctuation
    if is_word and following and following[0] not in string.punctuation:
        scan.out[-1] += f"-{following}"
        return 2
    scan.out.append("-")
    return 1


_RULES: tuple[_Rule, ...] = (_contraction, _dots, _number, _initials)
_FULL_RULES: tuple[_Rule, ...] = (_contraction, _quotation, _dots, _number, _initials, _dash)
