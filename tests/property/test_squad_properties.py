"""Properties of windows and answers, for any context, question, sizes and scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.tasks.squad.answers import best_answers
from minilm.tasks.squad.read import GoldAnswer, Question
from minilm.tasks.squad.settings import AnswerSettings, WindowSettings
from minilm.tasks.squad.windows import label_windows, make_windows
from minilm.text.tokenizer import Tokenizer

few = settings(max_examples=40, deadline=None)
texts = st.text(alphabet="abcé \u0301\u200b\u202f\t,.北", max_size=60)
sizes = st.fixed_dictionaries(
    {"max_tokens": st.integers(7, 30), "stride": st.integers(1, 30), "max_question_tokens": st.integers(1, 3)}
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abce,.", *(f"##{letter}" for letter in "abce")]
    path.write_text("\n".join(names))
    return Tokenizer.load(path)


@given(context=texts, asked=texts, cut=sizes)
@few
def test_windows_contain_every_token_and_each_has_max_context_once(tokenizer, context, asked, cut):
    question = Question(id="x", question=asked, context=context)
    windows = make_windows([question], tokenizer, WindowSettings(**cut))
    ids = tokenizer.encode([context], special_tokens=False)[0]
    seen, most = np.zeros(len(ids), dtype=int), np.zeros(len(ids), dtype=int)
    for window in windows:
        piece = slice(window.begin, window.begin + len(window.max_context))
        seen[piece] += 1
        most[piece] += window.max_context
        assert window.token_ids[window.first : -1].tolist() == ids[piece].tolist()
        assert len(window.token_ids) == len(window.segment_ids) <= cut["max_tokens"]
        assert window.segment_ids.sum() == len(window.max_context) + 1
    assert np.all(seen >= 1)
    assert np.all(most == 1)


@given(
    context=texts,
    cut=sizes,
    seed=st.integers(0, 2**32),
    n_best=st.integers(1, 5),
    longest=st.integers(1, 6),
    allow_no_answer=st.booleans(),
    postprocess=st.sampled_from(["exact", "classic"]),
)
@few
def test_answers_are_short_pieces_of_the_context(
    tokenizer, context, cut, seed, n_best, longest, allow_no_answer, postprocess
):
    question = Question(id="x", question="a", context=context)
    windows = make_windows([question], tokenizer, WindowSettings(**cut))
    draw = np.random.default_rng(seed)
    scores = [draw.normal(size=(len(window.token_ids), 2)).astype(np.float32) for window in windows]
    chosen = AnswerSettings(
        version="2.0" if allow_no_answer else "1.1", n_best=n_best, max_answer_tokens=longest, postprocess=postprocess
    )
    (answer,) = best_answers([question], windows, scores, tokenizer, settings=chosen)
    assert answer.text in {entry.text for entry in answer.nbest}
    assert sum(entry.probability for entry in answer.nbest) == pytest.approx(1)
    assert (answer.null_odds is not None) == allow_no_answer
    offsets = windows[0].context_offsets
    for entry in answer.nbest:
        if entry.start is None:
            assert entry.text == "" or (entry.text == "empty" and postprocess == "classic")
        elif postprocess == "classic":
            assert context[entry.start : entry.end].replace("\u202f", " ").split() == entry.text.split()
        else:
            assert entry.text == context[entry.start : entry.end] != ""
            inside = (offsets[:, 0] < entry.end) & (offsets[:, 1] > entry.start)
            assert 1 <= inside.sum() <= longest


@given(context=texts, cut=sizes, data=st.data())
@few
def test_labels_cover_the_answer_with_the_fewest_tokens(tokenizer, context, cut, data):
    start = data.draw(st.integers(0, max(len(context) - 1, 0)))
    end = data.draw(st.integers(start, len(context)))
    answer = GoldAnswer(text=context[start:end], start=start)
    questions = [
        Question(id="x", question="a", context=context, answers=(answer,)),
        Question(id="y", question="a", context=context, is_impossible=True),
    ]
    windows = make_windows(questions, tokenizer, WindowSettings(**cut))
    labelled = label_windows(questions, windows)
    offsets = windows[0].context_offsets
    touched = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start)) if end > start else np.empty(0, int)
    assert len(labelled.windows) == sum(window.question == 1 or len(touched) > 0 for window in windows)
    for window, (first, last) in zip(labelled.windows, labelled.positions, strict=True):
        inside = (
            window.question == 0
            and np.isin(touched, np.arange(window.begin, window.begin + len(window.max_context))).all()
        )
        if inside:
            assert [first, last] == [token - window.begin + window.first for token in (touched[0], touched[-1])]
        else:
            assert [first, last] == [0, 0]
