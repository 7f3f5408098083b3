"""Proves the rules from scores to answers on windows small enough to check by hand."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers, processors

from minilm.errors import DataError, UsageError
from minilm.tasks.squad.answers import Answer, best_answers, official_files
from minilm.tasks.squad.read import Question
from minilm.tasks.squad.settings import AnswerSettings, WindowSettings
from minilm.tasks.squad.windows import Window, make_windows
from minilm.text.tokenizer import Tokenizer

CONTEXT = "Alpha  béta, gammas"  # tokens: alpha beta , gamma ##s
FIRST = 3  # of its tokens, after [CLS] q [SEP]
NONE = AnswerSettings(version="1.1")
V2 = AnswerSettings(version="2.0")
CLASSIC = {"postprocess": "classic"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "q", "alpha", "beta", ",", "gamma", "##s"]
    path.write_text("\n".join(names))
    return Tokenizer.load(path)


def scores(window: Window, *, start: dict[int, float], end: dict[int, float]) -> NDArray[np.float32]:
    """Scores of one window: given ones by context token (-1: no answer), -9 elsewhere."""
    table = np.full((len(window.token_ids), 2), -9, dtype=np.float32)
    for column, given in enumerate((start, end)):
        for token, value in given.items():
            table[0 if token < 0 else window.first + token, column] = value
    return table


def one(
    tokenizer: Tokenizer,
    start: dict[int, float],
    end: dict[int, float],
    *,
    context: str = CONTEXT,
    settings: AnswerSettings = NONE,
) -> Answer:
    question = Question(id="x", question="q", context=context)
    windows = make_windows([question], tokenizer, WindowSettings())
    given = [scores(window, start=start, end=end) for window in windows]
    (answer,) = best_answers([question], windows, given, tokenizer, settings=settings)
    return answer


def test_the_answer_is_the_piece_of_the_context(tokenizer: Tokenizer) -> None:
    answer = one(tokenizer, {0: 2, 3: 5}, {1: 1, 4: 3.5})
    assert (answer.id, answer.text, answer.start, answer.end) == ("x", "gammas", 13, 19)
    assert (answer.nbest[0].start_logit, answer.nbest[0].end_logit) == (5, 3.5)
    assert answer.null_odds is None
    assert [entry.text for entry in answer.nbest[:3]] == ["gammas", "Alpha  béta, gammas", "Alpha  béta"]
    assert answer.score == answer.nbest[0].probability
    sums = [entry.start_logit + entry.end_logit for entry in answer.nbest]
    assert sums == sorted(sums, reverse=True)
    total = sum(math.exp(value - sums[0]) for value in sums)
    for entry, value in zip(answer.nbest, sums, strict=True):
        assert entry.probability == pytest.approx(math.exp(value - sums[0]) / total)
        assert entry.text == CONTEXT[entry.start : entry.end]


def test_backward_and_too_long_spans_and_those_in_the_question_are_not_answers(tokenizer: Tokenizer) -> None:
    settings = AnswerSettings(version="1.1", max_answer_tokens=2)
    answer = one(tokenizer, {-1: 9, 4: 5, 0: 4}, {-1: 9, 0: 0, 2: 8, 4: 1}, settings=settings)
    texts = [entry.text for entry in answer.nbest]
    assert texts[0] == "s"  # 4..4; alpha..comma is three tokens
    assert "Alpha  béta," not in texts
    assert "béta," in texts
    assert "gammas" in texts


def test_only_max_context_tokens_may_start_an_answer(tokenizer: Tokenizer) -> None:
    question = Question(id="x", question="q", context="alpha beta alpha beta gamma")
    windows = make_windows([question], tokenizer, WindowSettings(max_tokens=7, stride=2))  # 0-2, 2-4
    assert [window.max_context.tolist() for window in windows] == [[True] * 3, [False, True, True]]
    given = [scores(windows[0], start={}, end={}), scores(windows[1], start={0: 9, 1: 1}, end={1: 5})]
    (answer,) = best_answers([question], windows, given, tokenizer, settings=NONE)
    assert (answer.text, answer.start) == ("beta", 17)


@pytest.mark.parametrize(("threshold", "text"), [(-2.5, ""), (-2.0, "béta"), (0.0, "béta")])
def test_no_answer_when_its_score_wins_by_more_than_the_threshold(
    tokenizer: Tokenizer, threshold: float, text: str
) -> None:
    settings = AnswerSettings(version="2.0", null_threshold=threshold)
    answer = one(tokenizer, {-1: 1, 1: 3}, {-1: 1, 1: 1}, settings=settings)
    assert answer.null_odds == -2.0
    assert answer.text == text
    chosen = next(entry for entry in answer.nbest if entry.text == text)
    assert (answer.score, answer.start, answer.end) == (chosen.probability, chosen.start, chosen.end)
    assert (answer.start is None) == (text == "")


def test_the_no_answer_score_is_the_lowest_of_all_windows(tokenizer: Tokenizer) -> None:
    question = Question(id="x", question="q", context="alpha beta gamma alpha beta gamma")
    windows = make_windows([question], tokenizer, WindowSettings(max_tokens=7, stride=3))
    given = [
        scores(windows[0], start={-1: 4, 0: 2}, end={-1: 4, 0: 2}),
        scores(windows[1], start={-1: 3, 0: 0}, end={-1: 2, 0: 0}),
    ]
    (answer,) = best_answers([question], windows, given, tokenizer, settings=V2)
    assert answer.null_odds == 5 - 4
    none = next(entry for entry in answer.nbest if not entry.text)
    assert (none.start_logit, none.end_logit) == (3, 2)


def test_a_text_is_listed_once_with_its_best_score(tokenizer: Tokenizer) -> None:
    answer = one(tokenizer, {0: 1, 2: 4}, {0: 1, 2: 4}, context="alpha beta alpha")
    assert [entry.text for entry in answer.nbest].count("alpha") == 1
    assert (answer.nbest[0].start, answer.nbest[0].start_logit) == (11, 4)


def test_the_list_has_n_best_entries_and_no_answer_besides(tokenizer: Tokenizer) -> None:
    settings = AnswerSettings(version="2.0", n_best=3)
    answer = one(tokenizer, {0: 1, 1: 2, 2: 3}, {2: 1, 3: 2, 4: 3}, settings=settings)
    assert len(answer.nbest) == 4
    assert answer.nbest[-1].text == ""
    assert sum(entry.probability for entry in answer.nbest) == pytest.approx(1)


def test_a_list_of_one_holds_the_best_answer_and_no_answer(tokenizer: Tokenizer) -> None:
    settings = AnswerSettings(version="2.0", n_best=1)
    answer = one(tokenizer, {-1: 3, 0: 4}, {-1: 3, 1: 4}, settings=settings)
    assert [entry.text for entry in answer.nbest] == ["Alpha  béta", ""]
    assert (answer.text, answer.null_odds) == ("Alpha  béta", -2.0)
    answer = one(tokenizer, {-1: 9}, {-1: 9}, settings=settings)  # the only start tried is [CLS]
    assert (answer.text, [entry.text for entry in answer.nbest]) == ("", [""])


@pytest.mark.parametrize(("settings", "has_odds"), [(V2, True), (NONE, False)])
def test_the_row_has_null_odds_only_where_no_answer_is_an_option(
    tokenizer: Tokenizer, settings: AnswerSettings, has_odds: bool
) -> None:
    answer = one(tokenizer, {-1: 1, 0: 2}, {-1: 1, 0: 3}, settings=settings)
    row = answer.row()
    assert (row["id"], row["prediction"], row["start"], row["end"]) == ("x", "Alpha", 0, 5)
    assert row.get("null_odds") == (pytest.approx(2 - 5) if has_odds else None)
    assert ("null_odds" in row) == has_odds


def test_without_any_span_there_is_no_answer(tokenizer: Tokenizer) -> None:
    for context in ("", " \n"):
        answer = one(tokenizer, {-1: 2}, {-1: 1.5}, context=context, settings=V2)
        assert (answer.text, answer.null_odds, answer.score) == ("", 3.5, 1.0)
        assert (answer.start, answer.end) == (None, None)
        answer = one(tokenizer, {}, {}, context=context)
        assert (answer.text, answer.null_odds, len(answer.nbest)) == ("", None, 1)


def test_classic_says_empty_where_there_is_no_span(tokenizer: Tokenizer) -> None:
    answer = one(tokenizer, {-1: 2}, {-1: 1.5}, context="", settings=AnswerSettings(version="2.0", **CLASSIC))
    assert [(entry.text, entry.start_logit) for entry in answer.nbest] == [("empty", 0.0), ("", 2.0)]
    assert (answer.text, answer.null_odds) == ("", 3.5)
    answer = one(tokenizer, {-1: -2}, {-1: 1.5}, context="", settings=AnswerSettings(version="2.0", **CLASSIC))
    assert (answer.text, answer.start) == ("empty", None)
    answer = one(tokenizer, {}, {}, context="", settings=AnswerSettings(version="1.1", **CLASSIC))
    assert (answer.text, answer.null_odds) == ("empty", None)


@pytest.mark.parametrize(
    ("context", "first", "last", "exact", "classic"),
    [
        (CONTEXT, 1, 1, "béta", "béta"),  # found among the normalized letters
        (CONTEXT, 0, 1, "Alpha  béta", "Alpha béta"),  # spaces count as one
        (CONTEXT, 4, 4, "s", "gammas"),  # "##s" is in no word: the whole word
        (CONTEXT, 3, 3, "gamma", "gamma"),
        ("(alpha ﬃ beta),", 1, 4, "alpha ﬃ beta", "(alpha ﬃ beta),"),  # [UNK] is in no word: all words
        ("xalpha\u200b, beta", 1, 1, ",", "xalpha\u200b,"),  # dropped letters: nothing aligns
    ],
)
def test_exact_and_classic_give_their_own_texts(
    tokenizer: Tokenizer, context: str, first: int, last: int, exact: str, classic: str
) -> None:
    last = last - 1 if "ﬃ" in context else last
    for how, text in (("exact", exact), ("classic", classic)):
        settings = AnswerSettings(version="1.1", postprocess=how)  # type: ignore[arg-type]
        answer = one(tokenizer, {first: 5}, {last: 5}, context=context, settings=settings)
        assert answer.text == text
        assert answer.start is not None
        assert context[answer.start : answer.end].split() == text.split()


def test_spaces_that_a_token_includes_are_not_part_of_the_answer(tmp_path: Path) -> None:
    ids = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "Ġ", "Ġa"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[("Ġ", "a")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    answer = one(tokenizer, {0: 1, 1: 3}, {1: 3}, context="a  a")  # a, space, " a"
    assert answer.text == "a"
    assert all(entry.text.strip() == entry.text != "" for entry in answer.nbest)
    with pytest.raises(UsageError, match="is not a WordPiece tokenizer"):
        one(tokenizer, {}, {}, settings=AnswerSettings(version="2.0", **CLASSIC))


def test_official_files_have_the_original_keys_in_order(tokenizer: Tokenizer) -> None:
    answers = [one(tokenizer, {0: 1}, {0: 1}, settings=V2)]
    files = official_files(answers)
    assert list(files) == ["predictions", "nbest_predictions", "null_odds"]
    assert files["predictions"] == {"x": "Alpha"}
    assert files["null_odds"] == {"x": -18.0 - 2.0}
    entries = files["nbest_predictions"]["x"]
    assert isinstance(entries, list)
    assert list(entries[0]) == ["text", "probability", "start_logit", "end_logit"]
    json.dumps(files, allow_nan=False)
    assert list(official_files([one(tokenizer, {0: 1}, {0: 1})])) == ["predictions", "nbest_predictions"]


def test_what_does_not_belong_together_is_rejected(tokenizer: Tokenizer) -> None:
    question = Question(id="x", question="q", context=CONTEXT)
    windows = make_windows([question], tokenizer, WindowSettings())
    good = scores(windows[0], start={}, end={})
    with pytest.raises(UsageError, match="found scores of 0 sequences for 1 windows; pass the scores of these"):
        best_answers([question], windows, [], tokenizer, settings=V2)
    with pytest.raises(UsageError, match="found scores of 1 sequences for 1 windows"):
        best_answers([question], windows, [good[:-1]], tokenizer, settings=V2)
    with pytest.raises(UsageError, match="found windows of 1 questions, expected 2"):
        best_answers([question] * 2, windows, [good], tokenizer, settings=V2)
    good[2, 1] = np.nan
    with pytest.raises(
        DataError, match="question 'x': the model returned a score that is not finite; its weights are dam"
    ):
        best_answers([question], windows, [good], tokenizer, settings=V2)
    with pytest.raises(UsageError, match="n_best is 0; expected 1 or more"):
        AnswerSettings(version="2.0", n_best=0)
    with pytest.raises(UsageError, match="postprocess is 'old'; expected 'exact' or 'classic'"):
        AnswerSettings(version="2.0", postprocess="old")  # type: ignore[arg-type]
    assert best_answers([], [], [], tokenizer, settings=V2) == []


@pytest.mark.slow
def test_a_thousand_questions_take_about_a_second(tokenizer: Tokenizer) -> None:
    """The search is vectorized: a plain loop over 20 x 20 spans in Python takes several times as long."""
    questions = [Question(id=str(i), question="q", context="alpha beta, gammas " * 70) for i in range(1000)]
    windows = make_windows(questions, tokenizer, WindowSettings())
    draw = np.random.default_rng(0)
    given = [draw.normal(size=(len(window.token_ids), 2)).astype(np.float32) for window in windows]
    began = time.perf_counter()
    assert len(best_answers(questions, windows, given, tokenizer, settings=V2)) == 1000
    assert time.perf_counter() - began < 5


def test_the_representation_leaves_out_the_candidates():
    found = Answer(id="1", text="in Paris", start=4, end=12, score=0.87654, null_odds=None, nbest=())
    assert repr(found) == "<Answer 'in Paris' at 4:12, probability 0.877>"
    assert repr(replace(found, text="", start=None, end=None)) == "<Answer no answer, probability 0.877>"
