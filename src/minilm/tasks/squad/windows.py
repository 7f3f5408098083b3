"""Splits questions and contexts into windows of tokens, and locates the answers in them.

In: questions with their contexts, a tokenizer. Out: windows `[CLS] question [SEP] part of the context [SEP]`, each with
the character offsets of its tokens; for training, the first and last token of the answer in each window.

N tokens of one window, C of them from the context, T tokens of the full context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError
from minilm.tally import Tally, reporting_tally
from minilm.tasks.squad.read import Question
from minilm.tasks.squad.settings import WindowSettings
from minilm.tasks.squad.words import find_nearby
from minilm.text.pairs import PairFrame
from minilm.text.tokenizer import Tokenizer

Int32s = NDArray[np.int32]
Bools = NDArray[np.bool_]

_LENGTH_BONUS = 0.01  # per token of the window, in the max-context rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One question with one part of its context.

    Attributes:
        question: index of the question.
        token_ids: `[N]` int32.
        segment_ids: `[N]` int32; windows of equal lengths share one array.
        first: index in the window of its first context token.
        begin: index in the full context of that token.
        context_offsets: offsets of the first and past-the-last character of each token of the full context,
            `[T, 2]` int32; shared by all windows of the context.
        max_context: whether this window is the one with the most context around the token, `[C]`. Only such tokens
            may start an answer; each token is one in exactly one window.
    """

    question: int
    token_ids: Int32s
    segment_ids: Int32s
    first: int
    begin: int
    context_offsets: Int32s
    max_context: Bools

    @property
    def offsets(self) -> Int32s:
        """Character offsets of the window's context tokens, `[C, 2]`."""
        return self.context_offsets[self.begin : self.begin + len(self.max_context)]


@dataclass(frozen=True, kw_only=True)
class LabelledWindows:
    """Training windows; `positions` `[n, 2]` int64: first and last token of the answer in each, or 0, 0 ([CLS])."""

    windows: Sequence[Window]
    positions: NDArray[np.int64]


def make_windows(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    settings: WindowSettings,
    *,
    tally: Tally | None = None,
) -> list[Window]:
    """Split the context of each question into windows, each paired with the question.

    Windows start every `stride` context tokens; if fewer context tokens fit into a window, each window starts where the
    previous one ended. The last window ends with the context. Each question has at least one window; the window of an
    empty context has no context tokens.

    Args:
        questions: questions with their contexts.
        tokenizer: tokenizes questions and contexts and frames the pairs.
        settings: window sizes.
        tally: collects truncation warnings, for callers that process questions in several calls; None: warn here.

    Returns:
        All windows, in the order of the questions.

    Raises:
        UsageError: a question leaves no room for its context.
        DataError: the tokenizer cannot frame text pairs.
    """
    stride, max_question_tokens = settings.stride, settings.max_question_tokens
    contexts = list(dict.fromkeys(question.context for question in questions))
    encoded = dict(zip(contexts, tokenizer.encode_with_offsets(contexts), strict=True))
    asked = tokenizer.encode([question.question for question in questions], special_tokens=False)
    splitter = _Splitter(tokenizer.pair_frame, max_tokens=settings.max_tokens, stride=stride)
    windows: list[Window] = []
    for number, (question, ids) in enumerate(zip(questions, asked, strict=True)):
        windows += splitter.windows(number, question, ids[:max_question_tokens], *encoded[question.context])
    long = [question.where for question, ids in zip(questions, asked, strict=True) if len(ids) > max_question_tokens]
    with reporting_tally() if tally is None else nullcontext(tally) as found:
        found.add(f"questions were truncated to {max_question_tokens} tokens", long, of=len(questions))
        shorter = f"questions leave fewer than stride={stride} tokens per window for the context and use a shorter"
        found.add(f"{shorter} stride", splitter.crowded, of=len(questions))
    return windows


class _Splitter:
    """Creates the windows of questions; `crowded` lists the locations of questions that need a shorter stride."""

    def __init__(self, frame: PairFrame, *, max_tokens: int, stride: int) -> None:
        self._frame, self._max_tokens, self._stride = frame, max_tokens, stride
        self._segments: dict[tuple[int, int], Int32s] = {}
        self.crowded: list[str] = []

    def windows(
        self, number: int, question: Question, ids: Int32s, context_ids: Int32s, offsets: Int32s
    ) -> Iterator[Window]:
        room = self._max_tokens - self._frame.num_special - len(ids)
        if room < 1:
            raise UsageError(
                f"{question.where}: the question takes {len(ids)} of the {self._max_tokens} tokens of a window and "
                "leaves no room for its context; reduce the max question tokens (task.max_question_tokens; "
                "--max_query_length of run_squad.py) or raise the max tokens of a window"
            )
        starts = _window_starts(len(context_ids), room, min(self._stride, room))
        if len(starts) > 1 and room < self._stride:
            self.crowded.append(question.where)
        for begin, mask in zip(starts, _max_context(starts, room, len(context_ids)), strict=True):
            yield Window(
                question=number,
                token_ids=self._frame.join(ids, context_ids[begin : begin + len(mask)]),
                segment_ids=self._segment_ids(len(ids), len(mask)),
                first=self._frame.second_at(len(ids)),
                begin=begin,
                context_offsets=offsets,
                max_context=mask,
            )

    def _segment_ids(self, first: int, second: int) -> Int32s:
        if (first, second) not in self._segments:
            self._segments[first, second] = self._frame.join_segments(first, second)
        return self._segments[first, second]


def _window_starts(num_tokens: int, room: int, step: int) -> range:
    """First tokens of the windows of a context; only the last window reaches the end of the context."""
    return range(0, max(num_tokens - room, 0) + step, step)


def _max_context(starts: range, room: int, num_tokens: int) -> list[Bools]:
    """Mask `[C]` per window: the tokens that have more context in this window than in any other.

    The amount of context is the smaller of the token counts to the left and right, plus 0.01 times the length of the
    window; ties go to the first window.
    """
    best = np.full(num_tokens, -1.0)
    owner = np.zeros(num_tokens, dtype=np.intp)
    for number, begin in enumerate(starts):
        piece = slice(begin, min(begin + room, num_tokens))
        left = np.arange(piece.stop - begin)
        score = np.minimum(left, left[::-1]) + _LENGTH_BONUS * len(left)
        better = score > best[piece]
        best[piece][better] = score[better]
        owner[piece][better] = number
    return [owner[begin : begin + room] == number for number, begin in enumerate(starts)]


# --- training --------------------------------------------------------------------------------------


def label_windows(questions: Sequence[Question], windows: Sequence[Window]) -> LabelledWindows:
    """Locate the answer of each question in its windows, as the smallest token span that covers its characters.

    Only the first answer is used; an answer without a start offset is searched for in the context, and one that is not
    at its offset in the words there (`find_nearby`). A window that does not contain the complete answer is labeled as
    unanswerable. Questions whose answer is not found are skipped. Both kinds are reported with their counts.

    Raises:
        DataError: no question is usable.
    """
    spans: list[tuple[int, int] | None] = []
    lost: list[str] = []
    moved: list[str] = []
    offsets = {window.question: window.context_offsets for window in windows}
    for number, question in enumerate(questions):
        span: tuple[int, int] | None = (-1, -1)
        if not question.is_impossible:
            found = _answer_characters(question)
            span = found and _covering_tokens(*found, offsets[number])
            if span is None:
                lost.append(question.where)
            elif found and question.answers[0].start not in (None, found[0]):
                moved.append(question.where)
        spans.append(span)
    if lost and len(lost) == len(questions):
        raise DataError(f"no usable training question: no answer occurs in its context (first: {lost[0]})")
    with reporting_tally() as tally:
        skipped = "questions were skipped: the answer is not in the context, or not at its answer_start"
        tally.add(skipped, lost, of=len(questions))
        corrected = "questions have an answer that is not at its answer_start but in the words there; it was used"
        tally.add(corrected, moved, of=len(questions))
    kept, positions = [], []
    for window in windows:
        span = spans[window.question]
        if span is not None:
            kept.append(window)
            positions.append(_in_window(span, window))
    return LabelledWindows(windows=kept, positions=np.array(positions, dtype=np.int64).reshape(-1, 2))


def _answer_characters(question: Question) -> tuple[int, int] | None:
    """First and past-the-last character of the first answer in the context; None if it is not there."""
    context, (answer, *_) = question.context, question.answers
    start = context.find(answer.text) if answer.start is None else answer.start
    if start >= 0 and answer.text and context.startswith(answer.text, start):
        return start, start + len(answer.text)
    return find_nearby(context, answer.text, start)


def _covering_tokens(start: int, end: int, offsets: Int32s) -> tuple[int, int] | None:
    """First and last token of the context that cover some of the characters; None if there is none."""
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def _in_window(span: tuple[int, int], window: Window) -> tuple[int, int]:
    first, last = (token - window.begin for token in span)
    if first < 0 or last >= len(window.max_context):
        return 0, 0
    return first + window.first, last + window.first
