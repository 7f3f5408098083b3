"""How labelled texts are read, and what is predicted for them.

In: values of a recipe, of Python or of a model folder's `task.json`. Out: `TextSettings`, checked.
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
    """A GLUE task by its name, or labelled texts under another name.

    Columns, labels and metrics of the GLUE tasks are known; for other texts they are named here.

    Attributes:
        max_tokens: longest input, special tokens included.
        text: column of the text; None: `text`, or that of the GLUE task.
        text_pair: column of the second text; None: none, or that of the GLUE task.
        label: column of the label; None: `label`, or that of the GLUE task.
        id: column of the id; None: the first of `id`, `idx`, `index` that is there, else the row number.
        labels: names in the order of their numbers; those of the training files, or of the GLUE task.
        regression: predict a number.
        metric: chooses the best weights.
    """

    kind: Literal["text"] = "text"
    max_tokens: Annotated[int, Ge(8)] = 128
    text: Text | None = None
    text_pair: Text | None = None
    label: Text | None = None
    id: Text | None = None
    labels: Sequence[Text] = ()
    regression: bool = False
    metric: Text | None = None

    def __post_init__(self) -> None:
        """Raise SettingsError also for labels of a number."""
        super().__post_init__()
        if self.regression and self.labels:
            raise SettingsError("found labels with regression true, which predicts a number: drop one of the two")

    @property
    def longest(self) -> int:
        """Max tokens that one example takes in a batch."""
        return self.max_tokens
