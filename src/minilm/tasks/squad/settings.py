"""How questions and contexts become windows, and how scores become answers.

In: values of a recipe, of Python or of a model folder's `task.json`. Out: `WindowSettings`, `AnswerSettings`, and both
as `SquadSettings`, checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from minilm.files.checked import PositiveInt, Settings
from minilm.tasks.settings import TaskSettings


@dataclass(frozen=True, kw_only=True)
class WindowSettings(Settings):
    """How a question and its context become windows, in tokens.

    Attributes:
        max_tokens: longest window, special tokens included.
        stride: context tokens from the start of a window to that of the next.
        max_question_tokens: a longer question is truncated.
    """

    max_tokens: Annotated[int, Ge(5)] = 384  # a question of one token, one of the context, three special ones
    stride: PositiveInt = 128
    max_question_tokens: PositiveInt = 64


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(Settings):
    """How answers are chosen.

    Attributes:
        version: of SQuAD; in 2.0 the answer may be "".
        n_best: starts and ends that are tried per window, and length of the list.
        max_answer_tokens: longest answer.
        null_threshold: the answer is "" when the no-answer score is better than the best answer's by more.
        postprocess: `exact` takes the characters of the context that the tokens represent; `classic` guesses them
            as the original run_squad does (whole words where it fails), for WordPiece tokenizers only.
    """

    version: Literal["1.1", "2.0"] = "2.0"
    n_best: PositiveInt = 20
    max_answer_tokens: PositiveInt = 30
    null_threshold: float = 0.0
    postprocess: Literal["exact", "classic"] = "exact"

    @property
    def allow_no_answer(self) -> bool:
        """Whether "" may be the answer."""
        return self.version == "2.0"


@dataclass(frozen=True, kw_only=True)
class SquadSettings(AnswerSettings, WindowSettings, TaskSettings):
    """Answers as spans of a context."""

    kind: Literal["squad"] = "squad"

    @property
    def longest(self) -> int:
        """Max tokens that one example takes in a batch."""
        return self.max_tokens
