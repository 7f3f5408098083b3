"""Settings of windowing and answer extraction.

In: values from a recipe, from Python or from `task.json` of a model folder. Out: validated `WindowSettings`,
`AnswerSettings`, and both as `SquadSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from minilm.files.checked import PositiveInt, Settings
from minilm.tasks.settings import TaskSettings


@dataclass(frozen=True, kw_only=True)
class WindowSettings(Settings):
    """How a question and its context are split into windows, in tokens.

    Attributes:
        max_tokens: max tokens of a window, including special tokens.
        stride: context tokens between the starts of consecutive windows.
        max_question_tokens: longer questions are truncated.
    """

    max_tokens: Annotated[int, Ge(5)] = 384  # min: one question token, one context token, three special tokens
    stride: PositiveInt = 128
    max_question_tokens: PositiveInt = 64


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(Settings):
    """How answers are chosen.

    Attributes:
        version: SQuAD version; in 2.0 questions may be unanswerable (the answer is "").
        n_best: starts and ends considered per window, and length of the n-best list.
        max_answer_tokens: max tokens of an answer.
        null_threshold: the answer is "" if the no-answer score exceeds the score of the best answer by more than this.
        postprocess: `exact` takes the characters of the context covered by the tokens; `classic` reconstructs them as
            the original run_squad does (complete words if that fails); WordPiece tokenizers only.
    """

    version: Literal["1.1", "2.0"] = "2.0"
    n_best: PositiveInt = 20
    max_answer_tokens: PositiveInt = 30
    null_threshold: float = 0.0
    postprocess: Literal["exact", "classic"] = "exact"

    @property
    def allow_no_answer(self) -> bool:
        """Whether "" is a valid answer."""
        return self.version == "2.0"


@dataclass(frozen=True, kw_only=True)
class SquadSettings(AnswerSettings, WindowSettings, TaskSettings):
    """Extractive question answering."""

    kind: Literal["squad"] = "squad"

    @property
    def longest(self) -> int:
        """Max tokens of one example in a batch."""
        return self.max_tokens
