"""Base class of the task settings: the kind and the name of a task.

In: values from a recipe, from Python or from `task.json` of a model folder. Out: the base of one class per kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from minilm.files.checked import Settings, Text

NEGATIVES = ("negatives", "negative")
"""Usual columns of texts that do not belong to a query, besides those that are numbered."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """Kind and name of a task."""

    kind: str
    name: Text
