"""Settings of tasks on tagged words: how sentences are read and how they become tokens.

In: values from a recipe, from Python or from `task.json` of a model folder. Out: validated `TokensSettings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from minilm.errors import SettingsError
from minilm.files.checked import Text
from minilm.tasks.settings import TaskSettings
from minilm.tasks.tokens.schemes import require_tag

SchemeChoice = Literal["auto", "IOB1", "IOB2", "IOBES"]


@dataclass(frozen=True, kw_only=True)
class TokensSettings(TaskSettings):
    """A tag for each word, such as the named entities of a sentence.

    Attributes:
        max_tokens: max tokens of a sentence, including special tokens; words beyond are tagged O.
        words: column of the list of words; None: `tokens` or `words`.
        tags: column of the list of tags; None: `ner_tags`, `tags` or `labels`.
        text: column of texts that are not split into words, for prediction.
        id: column of the id; None: the first of `id`, `idx`, `index` that exists, else the row number.
        labels: tags in the order of their numbers; empty: those of the training files.
        scheme: how the files mark entities; `auto`: detected, for each file.
        metric: metric that selects the best checkpoint.
    """

    kind: Literal["tokens"] = "tokens"
    max_tokens: Annotated[int, Ge(3)] = 512  # a short sentence is not padded, so a high limit costs nothing
    words: Text | None = None
    tags: Text | None = None
    text: Text | None = None
    id: Text | None = None
    labels: Sequence[Text] = ()
    scheme: SchemeChoice = "auto"
    metric: Text | None = None

    def __post_init__(self) -> None:
        """Raise SettingsError also for a label that is no tag."""
        super().__post_init__()
        for label in self.labels:
            try:
                require_tag(label)
            except ValueError as error:
                raise SettingsError(f"labels: {error}") from None

    @property
    def longest(self) -> int:
        """Max tokens of one example in a batch."""
        return self.max_tokens
