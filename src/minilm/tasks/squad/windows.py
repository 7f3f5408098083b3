"""Questions as windows of tokens, and where in a window the answer stands.

In: questions with their contexts, a tokenizer. Out: windows `[CLS] question [SEP] piece of the context [SEP]`, each
with the characters its tokens stand for; for training the first and last token of the answer in each window.

N tokens of one window, C of them from the context, T tokens of the whole context.
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
from minilm.text.pairs import PairFrame
from minilm.text.tokenizer import Tokenizer

Int32s = NDArray[np.int32]
Bools = NDArray[np.bool_]

_LENGTH_BONUS = 0.01  # of the max-context rule, per token of the window


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One question with one piece of its context.

    Attributes:
        question: index of the question.
        token_ids: `[N]` int32.
        segment_ids: `[N]` int32; windows of equal lengths share one array.
        first: index in the window of its first context token.
        begin: index in the whole context of that token.
        context_offsets: first and past-the-last character of each token of the whole context, `[T, 2]` int32;
            shared by all windows of the context.
        max_context: whether no other window shows more around the token, `[C]`; only such a token may begin an
            answer, and each token is one in exactly one window.
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
        """Characters of the window's context tokens in the context, `[C, 2]`."""
        return self.context_offsets[self.begin : self.begin + len(self.max_context)]


@dataclass(frozen=True, kw_only=True)
class LabelledWindows:
    """Windows to train on; `positions` `[n, 2]` int64: the answer's first and last token in each, or 0, 0 ([CLS])."""

    windows: Sequence[Window]
    positions: NDArray[np.int64]


def make_windows(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    settings: WindowSettings,
    *,
    tally: Tally | None = None,
) -> list[Window]:
    """Cut the context of each question into windows that go with the question.

    Windows start every `stride` context tokens (where less than that fits into a window, every window starts
    where the one before ended), and the last one ends with the context. Each question has at least one window;
    that of an empty context holds no context token.

    Args:
        questions: what is asked, each with its context.
        tokenizer: makes the ids; its frame goes around question and context.
        settings: sizes of the windows.
        tally: takes what was cut, for a caller with more questions to come; without it that is warned about here.

    Returns:
        All windows, in the order of the questions.

    Raises:
        UsageError: a question leaves no room for its context.
        DataError: the tokenizer cannot frame two texts.
    """
    stride, max_question_tokens = settings.stride, settings.max_question_tokens
    contexts = list(dict.fromkeys(question.context for question in questions))
    encoded = dict(zip(contexts, tokenizer.encode_with_offsets(contexts), strict=True))
    asked = tokenizer.encode([question.question for question in questions], special_tokens=False)
    cutter = _Cutter(tokenizer.pair_frame, max_tokens=settings.max_tokens, stride=stride)
    windows: list[Window] = []
    for number, (question, ids) in enumerate(zip(questions, asked, strict=True)):
        windows += cutter.windows(number, question, ids[:max_question_tokens], *encoded[question.context])
    cut = [question.where for question, ids in zip(questions, asked, strict=True) if len(ids) > max_question_tokens]
    with reporting_tally() if tally is None else nullcontext(tally) as found:
        found.add(f"questions are longer than {max_question_tokens} tokens and were cut", cut, of=len(questions))
        closer = f"questions leave less than stride={stride} tokens of a window for the context: their windows start "
        found.add(f"{closer}closer together", cutter.crowded, of=len(questions))
    return windows


class _Cutter:
    """Makes the windows of one question after another; `crowded` are the places where `stride` was too long."""

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
                f"{question.where}: the question takes {len(ids)} of a window's {self._max_tokens} tokens and leaves "
                "no room for its context: lower the most tokens of a question (task.max_question_tokens; "
                "--max_query_length of run_squad.py) or raise those of a window"
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
    """First tokens of the windows of a context; only the last window reaches its end."""
    return range(0, max(num_tokens - room, 0) + step, step)


def _max_context(starts: range, room: int, num_tokens: int) -> list[Bools]:
    """Mask `[C]` of each window: the tokens that have more context in it than in any other window.

    More is the lesser of the tokens to the left and to the right, plus a hundredth of the window's length; the
    first window wins a tie.
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
    """Find the answer of each question in its windows, as the fewest tokens that cover its characters.

    Of several answers the first counts; one without a place is looked for in the context. A window that does not
    hold the whole answer is labelled like one of an impossible question. Questions whose answer is not in their
    context, or not where the file says, are left out with a warning.

    Raises:
        DataError: no question can be used.
    """
    spans: list[tuple[int, int] | None] = []
    lost: list[str] = []
    offsets = {window.question: window.context_offsets for window in windows}
    for number, question in enumerate(questions):
        span = (-1, -1) if question.is_impossible else _answer_tokens(question, offsets[number])
        spans.append(span)
        if span is None:
            lost.append(question.where)
    if lost and len(lost) == len(questions):
        raise DataError(f"no question can be learned from: none has its answer in its context (first: {lost[0]})")
    with reporting_tally() as tally:
        left_out = "questions are left out: the answer is not in the context, or not where the file says"
        tally.add(left_out, lost, of=len(questions))
    kept, positions = [], []
    for window in windows:
        span = spans[window.question]
        if span is not None:
            kept.append(window)
            positions.append(_in_window(span, window))
    return LabelledWindows(windows=kept, positions=np.array(positions, dtype=np.int64).reshape(-1, 2))


def _answer_tokens(question: Question, offsets: Int32s) -> tuple[int, int] | None:
    """First and last token of the whole context that the first answer touches; None when it is not there."""
    answer = question.answers[0]
    start = question.context.find(answer.text) if answer.start is None else answer.start
    if start < 0 or not answer.text or not question.context.startswith(answer.text, start):
        return None
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], start + len(answer.text), side="left")) - 1
    return (first, last) if first <= last else None


def _in_window(span: tuple[int, int], window: Window) -> tuple[int, int]:
    first, last = (token - window.begin for token in span)
    if first < 0 or last >= len(window.max_context):
        return 0, 0
    return first + window.first, last + window.first
