"""What the settings of every kind of task share: the kind and a name.

In: values of a recipe, of Python or of a model folder's `task.json`. Out: a checked base of one class for each kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from minilm.files.checked import Settings, Text


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """What kind of task it is, and what it is called."""

    kind: str
    name: Text
