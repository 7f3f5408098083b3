"""Windows, training labels and answers equal those of the original run_squad (transformers 2.5.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from minilm.score.squad import squad_metrics
from minilm.tasks.squad.answers import best_answers, official_files
from minilm.tasks.squad.read import Question, read_squad, read_squad_references
from minilm.tasks.squad.settings import AnswerSettings, WindowSettings
from minilm.tasks.squad.windows import Window, label_windows, make_windows
from minilm.text.tokenizer import Tokenizer

SIZES = {
    384: {"max_tokens": 384, "stride": 128, "max_question_tokens": 64},
    128: {"max_tokens": 128, "stride": 48, "max_question_tokens": 24},
}
WORD = re.compile("[^ \t\r\n\u202f]+")


@dataclass(frozen=True)
class Golden:
    folder: Path
    length: int
    tokenizer: Tokenizer
    questions: list[Question]
    windows: list[Window]

    def lines(self, name: str) -> list[dict[str, Any]]:
        text = (self.folder / f"nbest_len{self.length}_{name}.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line]

    def answers(self, settings: dict[str, Any], postprocess: str) -> list[Any]:
        tables = load_file(self.folder / f"nbest_len{self.length}_logits.safetensors")
        return best_answers(
            self.questions,
            self.windows,
            list(np.stack([tables["start_logits"], tables["end_logits"]], axis=-1)),
            self.tokenizer,
            settings=AnswerSettings(
                version="2.0" if settings["version_2_with_negative"] else "1.1",
                n_best=settings["n_best_size"],
                max_answer_tokens=settings["max_answer_length"],
                null_threshold=settings["null_score_diff_threshold"],
                postprocess=postprocess,  # type: ignore[arg-type]
            ),
        )

    @property
    def predictions(self) -> dict[str, Any]:
        path = self.folder / f"nbest_len{self.length}_predictions.json"
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content


@pytest.fixture(scope="module", params=[384, 128])
def golden(
    request: pytest.FixtureRequest, golden_dir: Path, golden_file: Callable[[str], Path], bert_vocab: Path
) -> Golden:
    golden_file(f"squad/nbest_len{request.param}_features.jsonl")
    folder = golden_dir / "squad"
    tokenizer = Tokenizer.load(bert_vocab)
    questions = read_squad(folder / "nbest_dev.json")
    if request.param == 128:
        questions = questions[:26] + questions[-6:]
    windows = make_windows(questions, tokenizer, WindowSettings(**SIZES[request.param]))
    return Golden(folder, request.param, tokenizer, questions, windows)


def test_windows_equal_the_original(golden: Golden) -> None:
    features = golden.lines("features")
    assert len(golden.windows) == len(features)
    for window, feature in zip(golden.windows, features, strict=True):
        assert golden.questions[window.question].id == feature["qas_id"]
        assert window.token_ids.tolist() == feature["input_ids"]
        assert "".join(map(str, window.segment_ids)) == feature["token_type_ids"]
        assert window.first == feature["doc_first_index"]
        assert "".join(map(str, window.max_context.astype(int))) == feature["max_context"]


def test_characters_of_tokens_lie_in_the_words_of_the_original(golden: Golden) -> None:
    for window, feature in zip(golden.windows, golden.lines("features"), strict=True):
        context = golden.questions[window.question].context
        ends = [word.end() for word in WORD.finditer(context)]
        words = np.searchsorted(ends, window.offsets[:, 0], side="right")
        assert words.tolist() == feature["token_to_orig"]
        assert np.searchsorted(ends, window.offsets[:, 1] - 1, side="right").tolist() == words.tolist()


def test_training_labels_equal_the_original(golden: Golden) -> None:
    labelled = label_windows(golden.questions, golden.windows)
    rows = golden.lines("train_positions")
    assert [golden.questions[window.question].id for window in labelled.windows] == [row["qas_id"] for row in rows]
    assert labelled.positions.tolist() == [[row["start_position"], row["end_position"]] for row in rows]
    assert {one.id for one in golden.questions} - {row["qas_id"] for row in rows} == {"skip0"}


@pytest.mark.parametrize("name", ["default", "thr2_nb5_len10", "thr-3", "squad1"])
def test_classic_answers_equal_the_original(golden: Golden, name: str) -> None:
    """Texts, null odds and n-best lists with their probabilities: all digits."""
    expected = golden.predictions[name]
    files = official_files(golden.answers(expected, "classic"))
    assert list(files["predictions"].items()) == list(expected["predictions"].items())
    assert files.get("null_odds") == expected["null_odds"]
    for key, longest in (("nbest", None), ("nbest_top3", 3)):
        if key in expected:
            entries = {one: list(found)[:longest] for one, found in files["nbest_predictions"].items()}  # type: ignore[call-overload]
            assert entries == expected[key]


@pytest.mark.parametrize("name", ["default", "thr2_nb5_len10", "thr-3", "squad1"])
def test_exact_answers_are_the_same_except_for_pieces_of_words(golden: Golden, name: str) -> None:
    """The original answers whole words where the tokens are pieces ("Galiev" for "ie"), and "empty" for nothing."""
    settings = golden.predictions[name]
    exact, classic = golden.answers(settings, "exact"), golden.answers(settings, "classic")
    assert [one.null_odds for one in exact] == [one.null_odds for one in classic]
    different = [(one.text, other.text) for one, other in zip(exact, classic, strict=True) if one.text != other.text]
    assert len(different) <= 4
    assert all(text in other or other == "empty" for text, other in different)
    for question, one in zip(golden.questions, exact, strict=True):
        assert all(
            entry.text == ("" if entry.start is None else question.context[entry.start : entry.end])
            for entry in one.nbest
        )


@pytest.mark.parametrize("name", ["default", "thr2_nb5_len10", "thr-3"])
def test_scores_equal_those_of_transformers(golden: Golden, golden_dir: Path, name: str) -> None:
    """Its `squad_evaluate` on the stored answers: exact match and F1, on all, answerable and unanswerable questions."""
    stored = golden.predictions[name]
    ids = set(stored["predictions"])
    references = [one for one in read_squad_references(golden_dir / "squad" / "nbest_dev.json") if one.id in ids]
    limits = {"na_probs": stored["null_odds"], "na_prob_threshold": stored["null_score_diff_threshold"]}
    found = squad_metrics(references, stored["predictions"], **limits)
    expected = stored["squad_evaluate_with_null_odds"]
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-9)
