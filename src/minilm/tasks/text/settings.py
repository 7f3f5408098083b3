"""Settings of tasks on labeled texts: how they are read and what is predicted.

In: values from a recipe, from Python or from `task.json` of a model folder. Out: validated `TextSettings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from minilm.errors import SettingsError
from minilm.files.checked import Text
from minilm.tasks.settings import TaskSettings


@dataclass(frozen=True, kw_only=True)
class TextSettings(TaskSettings):
    """A GLUE task by its name, or labeled texts under another name.

    Columns, labels and metrics of the GLUE tasks are known; for other texts they are set here.

    Attributes:
        max_tokens: max tokens of an input, including special tokens.
        text: column of the text; None: `text`, or that of the GLUE task.
        text_pair: column of the second text; None: none, or that of the GLUE task.
        label: column of the label; None: `label`, or that of the GLUE task.
        id: column of the id; None: the first of `id`, `idx`, `index` that exists, else the row number.
        labels: names in the order of their numbers; empty: those of the training files, or of the GLUE task.
        regression: predict a number.
        multi_label: every label applies or not; rows have a list of labels, or 0 or 1 in one column per label.
        metric: metric that selects the best checkpoint.
    """

    kind: Literal["text"] = "text"
    max_tokens: Annotated[int, Ge(8)] = 128
    text: Text | None = None
    text_pair: Text | None = None
    label: Text | None = None
    id: Text | None = None
    labels: Sequence[Text] = ()
    regression: bool = False
    multi_label: bool = False
    metric: Text | None = None

    def __post_init__(self) -> None:
        """Raise SettingsError also for labels combined with regression."""
        super().__post_init__()
        if self.regression and self.labels:
            raise SettingsError("found labels with regression true, which predicts a number; remove one of the two")
        if self.regression and self.multi_label:
            raise SettingsError("found multi_label and regression both true; a task is one of them: set one to false")

    @property
    def longest(self) -> int:
        """Max tokens of one example in a batch."""
        return self.max_tokens
