"""Proves that windows and labels of SQuAD questions are those of the written rules."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.errors import DataError, UsageError
from minilm.tasks.squad.read import GoldAnswer, Question
from minilm.tasks.squad.settings import WindowSettings
from minilm.tasks.squad.windows import Window, label_windows, make_windows
from minilm.text.tokenizer import Tokenizer

WORDS = [f"w{number}" for number in range(10)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ",", "-", "w", "##x", "##y"]))
    return Tokenizer.load(path)


def asked(context: str, question: str = "w0 w0", **values: object) -> Question:
    return Question(id="x", question=question, context=context, location="f:1", **values)  # type: ignore[arg-type]


def tokens(window: Window, tokenizer: Tokenizer) -> str:
    return " ".join(tokenizer.id_to_token(int(token)) for token in window.token_ids)


def test_windows_start_every_stride_and_the_last_ends_with_the_context(tokenizer: Tokenizer) -> None:
    windows = make_windows([asked(" ".join(WORDS))], tokenizer, WindowSettings(max_tokens=9, stride=3))  # room for 4
    assert [tokens(window, tokenizer) for window in windows] == [
        "[CLS] w0 w0 [SEP] w0 w1 w2 w3 [SEP]",
        "[CLS] w0 w0 [SEP] w3 w4 w5 w6 [SEP]",
        "[CLS] w0 w0 [SEP] w6 w7 w8 w9 [SEP]",
    ]
    assert [window.begin for window in windows] == [0, 3, 6]
    assert [window.first for window in windows] == [4, 4, 4]
    assert windows[0].segment_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert windows[1].offsets.tolist() == [[9, 11], [12, 14], [15, 17], [18, 20]]
    masks = ["".join(map(str, window.max_context.astype(int))) for window in windows]
    assert masks == ["1111", "0111", "0111"]
    assert windows[0].context_offsets is windows[2].context_offsets


def test_a_short_context_is_one_window_and_an_empty_one_too(tokenizer: Tokenizer) -> None:
    questions = [asked("w1, w2"), asked(""), asked(" \u200b\n"), asked("w1", question="")]
    windows = make_windows(questions, tokenizer, WindowSettings(max_tokens=9))
    assert [window.question for window in windows] == [0, 1, 2, 3]
    assert tokens(windows[0], tokenizer) == "[CLS] w0 w0 [SEP] w1 , w2 [SEP]"
    for window in windows[1:3]:
        assert tokens(window, tokenizer) == "[CLS] w0 w0 [SEP] [SEP]"
        assert window.segment_ids.tolist() == [0, 0, 0, 0, 1]
        assert window.offsets.shape == (0, 2)
        assert window.max_context.shape == (0,)
    assert tokens(windows[3], tokenizer) == "[CLS] [SEP] w1 [SEP]"
    assert make_windows([], tokenizer, WindowSettings()) == []


def test_long_questions_are_truncated_and_counted(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    questions = [asked("w1", question="w0"), asked("w1", question="w3 w4 w5"), asked("w1", question="w6 w7 w8")]
    windows = make_windows(questions, tokenizer, WindowSettings(max_question_tokens=2))
    assert tokens(windows[1], tokenizer) == "[CLS] w3 w4 [SEP] w1 [SEP]"
    assert caplog.messages == ["2 of 3 questions were truncated to 2 tokens (first: f:1)"]


def test_a_stride_that_would_leave_gaps_is_shortened_and_reported(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    windows = make_windows([asked(" ".join(WORDS))], tokenizer, WindowSettings(max_tokens=9, stride=5))
    assert [window.begin for window in windows] == [0, 4, 8]
    assert caplog.messages == [
        "1 of 1 questions leave fewer than stride=5 tokens per window for the context and use a shorter stride "
        "(first: f:1)"
    ]


def test_sizes_that_leave_no_room_are_rejected(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        UsageError,
        match="f:1: the question takes 2 of the 5 tokens of a window and leaves no room for its context; "
        "reduce the max question tokens",
    ):
        make_windows([asked("w1")], tokenizer, WindowSettings(max_tokens=5))
    assert len(make_windows([asked("w1 w2")], tokenizer, WindowSettings(max_tokens=6, stride=1))) == 2
    with pytest.raises(UsageError, match="stride is 0; expected 1 or more"):
        make_windows([asked("w1")], tokenizer, WindowSettings(stride=0))
    with pytest.raises(UsageError, match="max_question_tokens is 0; expected 1 or more"):
        make_windows([asked("w1")], tokenizer, WindowSettings(max_question_tokens=0))


@pytest.mark.slow
def test_a_context_of_100_000_tokens_takes_little_memory(tokenizer: Tokenizer) -> None:
    """All windows share one table of characters; the whole takes a second."""
    question = asked("w1 w2 w3, " * 25_000)
    windows = make_windows([question] * 3, tokenizer, WindowSettings())
    assert len(windows) == 3 * (1 + -(-(100_000 - 379) // 128))
    assert len({id(window.context_offsets) for window in windows}) == 1
    assert sum(int(window.max_context.sum()) for window in windows) == 300_000
    assert sum(window.max_context.nbytes + window.token_ids.nbytes for window in windows) < 6e6


# --- labels --------------------------------------------------------------------------------------


def labels(tokenizer: Tokenizer, context: str, text: str, start: int | None, **sizes: int) -> list[list[int]]:
    question = asked(context, answers=(GoldAnswer(text=text, start=start),))
    return label_windows([question], make_windows([question], tokenizer, WindowSettings(**sizes))).positions.tolist()


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("w2", 3, [5, 5]),
        ("w2, w3", 3, [5, 7]),
        ("w2", None, [5, 5]),  # its first occurrence
        ("w2", 11, [8, 8]),
        ("x", 15, [10, 10]),  # the piece of a word
        ("2", 4, [5, 5]),  # inside a token: the token
        (" w2,", 2, [5, 6]),  # spaces do not belong to a token
    ],
)
def test_labels_are_the_fewest_tokens_that_cover_the_answer(
    tokenizer: Tokenizer, text: str, start: int | None, expected: list[int]
) -> None:
    assert labels(tokenizer, "w1 w2, w3  w2 wx", text, start) == [expected]


def test_windows_without_the_whole_answer_point_at_cls(tokenizer: Tokenizer) -> None:
    rows = labels(tokenizer, " ".join(WORDS), "w3 w4", 9, max_tokens=9, stride=2)  # windows of 4: 0-3, 2-5, 4-7, 6-9
    assert rows == [[0, 0], [5, 6], [0, 0], [0, 0]]


def test_questions_without_a_findable_answer_are_left_out_and_counted(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    def answered(text: str, start: int | None) -> Question:
        return asked("w1 w2 \u200b w3", answers=(GoldAnswer(text=text, start=start),))

    usable = [asked("w1", is_impossible=True), answered("w3", 8)]
    lost = [answered(*one) for one in (("w2", 9), ("w9", None), ("w3", -2), ("w2", 99), ("", 3), ("\u200b", 6))]
    questions = [usable[0], *lost, usable[1]]
    labelled = label_windows(questions, make_windows(questions, tokenizer, WindowSettings()))
    assert [window.question for window in labelled.windows] == [0, 7]
    assert labelled.positions.tolist() == [[0, 0], [6, 6]]
    assert labelled.positions.dtype == np.int64
    assert caplog.record_tuples == [
        (
            "minilm.tally",
            logging.WARNING,
            "6 of 8 questions were skipped: the answer is not in the context, or not at its answer_start (first: f:1)",
        )
    ]
    with pytest.raises(DataError, match=r"no usable training question: .* \(first: f:1\)"):
        label_windows(lost, make_windows(lost, tokenizer, WindowSettings()))


def original_label(context: str, text: str, start: int, tokenizer: Tokenizer) -> tuple[int, int] | None:
    """First and last token of the answer as run_squad finds it: in the words at the offset, then the first tokens that
    equal those of the answer, else all tokens of these words; None if it skips the question."""
    words: list[str] = []
    word_of = []
    space = True
    for character in context:
        if character in " \t\r\n\u202f":
            space = True
        elif space:
            words.append(character)
            space = False
        else:
            words[-1] += character
        word_of.append(len(words) - 1)
    first, last = word_of[start], word_of[min(start + len(text) - 1, len(word_of) - 1)]
    if " ".join(text.split()) not in " ".join(words[first : last + 1]):
        return None
    pieces = [(number, piece) for number, word in enumerate(words) for piece in tokenizer.words(word)]
    inside = [index for index, (number, _) in enumerate(pieces) if first <= number <= last]
    answer = " ".join(tokenizer.words(text))
    for begin in inside:
        for end in reversed(inside):
            if begin <= end and " ".join(piece for _, piece in pieces[begin : end + 1]) == answer:
                return begin, end
    return inside[0], inside[-1]


@pytest.mark.slow
@given(data=st.data())
def test_an_answer_a_little_off_its_offset_is_found_where_the_original_finds_it(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(["w1", "w2", "w3,", "w4-w5"]), min_size=1, max_size=6))
    gaps = st.sampled_from([" ", "  ", "\t"])
    context = "".join(word + data.draw(gaps) for word in chosen)
    first = data.draw(st.integers(0, len(chosen) - 1))
    text = " ".join(chosen[first : data.draw(st.integers(first, len(chosen) - 1)) + 1]).rstrip(",")
    start = data.draw(st.integers(0, len(context) - 1))
    expected = original_label(context, text, start, tokenizer)
    questions = [asked(context, answers=(GoldAnswer(text=text, start=start),)), asked("w1", is_impossible=True)]
    labelled = label_windows(questions, make_windows(questions, tokenizer, WindowSettings()))
    found = labelled.positions.tolist()[:-1]
    assert found == ([] if expected is None else [[4 + expected[0], 4 + expected[1]]])


def test_answers_used_from_another_offset_are_counted(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    spans = [("w2  w3", 4), ("w2 w3", 5), ("w3", 0)]  # exact; one character late and other spaces; not there
    questions = [asked("w1  w2  w3", answers=(GoldAnswer(text=text, start=start),)) for text, start in spans]
    labelled = label_windows(questions, make_windows(questions, tokenizer, WindowSettings()))
    assert labelled.positions.tolist() == [[5, 6], [5, 6]]
    assert [message.split(" (first")[0] for message in caplog.messages] == [
        "1 of 3 questions were skipped: the answer is not in the context, or not at its answer_start",
        "1 of 3 questions have an answer that is not at its answer_start but in the words there; it was used",
    ]
