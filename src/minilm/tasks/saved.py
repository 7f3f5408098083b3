"""The task of a fine-tuned model, stored as `task.json` in its folder.

In: a model folder. Out: the settings of its task, so that prediction reads and frames inputs exactly as in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from minilm.errors import DataError
from minilm.files.checked import from_json
from minilm.files.json import read_json, write_json
from minilm.tasks.rerank.settings import RerankSettings
from minilm.tasks.seq2seq.settings import Seq2SeqSettings
from minilm.tasks.squad.settings import SquadSettings
from minilm.tasks.text.settings import TextSettings
from minilm.tasks.tokens.settings import TokensSettings

SavedTask = TextSettings | TokensSettings | SquadSettings | Seq2SeqSettings | RerankSettings

TASK_FILE = "task.json"
_KINDS: Mapping[str, type[SavedTask]] = {
    one.kind: one for one in (TextSettings, TokensSettings, SquadSettings, Seq2SeqSettings, RerankSettings)
}
_REMEDY = "was the model saved by a newer minilm? Upgrade it"


def write_task(folder: Path, task: SavedTask) -> None:
    """Write the settings of the task's kind into a model folder; raises SystemProblem if that fails."""
    write_json(folder / TASK_FILE, {field.name: getattr(task, field.name) for field in fields(_KINDS[task.kind])})


def read_task(folder: Path) -> SavedTask | None:
    """Read `task.json`; None if the folder has none (a model of another library).

    Raises:
        DataError: the file is damaged, or contains an unknown kind, key or value.
    """
    file = folder / TASK_FILE
    if not file.is_file():
        return None
    values = read_json(file)
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise DataError(f"{file}: kind is {kind!r}; expected {', '.join(map(repr, _KINDS))}; {_REMEDY}")
    return from_json(_KINDS[kind], values, where=file, remedy=_REMEDY)


def longest_input(task: SavedTask | None, *, positions: int, limit: int) -> int:
    """Max tokens of an input in training; `limit` is that of the folder, where its task is not recorded.

    A default that exceeds the positions of a small model does not count.
    """
    if isinstance(task, TokensSettings | RerankSettings):
        return min(task.max_tokens, positions)
    return task.max_tokens if isinstance(task, TextSettings | SquadSettings) else limit
