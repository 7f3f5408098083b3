"""What a fine-tuned model was trained to do: `task.json` in its folder.

In: a model folder. Out: `SavedTask`, so that prediction cuts and frames its input as training did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from minilm.files.checked import from_json
from minilm.files.json import read_json, write_json
from minilm.tasks.squad.answers import AnswerSettings, Postprocess

_FILE = "task.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedTask:
    """How input is read and cut; of a span task also how answers are chosen.

    `text`, `text_pair` and `id` are the columns of labelled files; no `text_pair` means single texts. `source` are
    those whose texts together are the source of a seq2seq model. It was trained on sources and targets of at most
    `max_source_tokens` and `max_target_tokens`, special tokens counted, in the way `mask_way`: after v0 the source has
    no [SEP] and the newest token predicts, not a [MASK].
    """

    name: str = ""
    max_tokens: int | None = None
    text: str = "text"
    text_pair: str | None = None
    id: str | None = None
    allow_no_answer: bool = True
    stride: int = 128
    max_question_tokens: int = 64
    max_answer_tokens: int = 30
    n_best: int = 20
    null_threshold: float = 0.0
    postprocess: str = "exact"
    source: Sequence[str] = ("src",)
    max_source_tokens: int | None = None
    max_target_tokens: int | None = None
    mask_way: str = "v2"

    @property
    def answers(self) -> AnswerSettings:
        """How answers are chosen."""
        return AnswerSettings(
            allow_no_answer=self.allow_no_answer,
            n_best=self.n_best,
            max_answer_tokens=self.max_answer_tokens,
            null_threshold=self.null_threshold,
            postprocess=cast("Postprocess", self.postprocess),
        )


def write_task(folder: Path, task: SavedTask) -> None:
    """Write `task.json` into a model folder; raises SystemProblem when the machine refuses."""
    write_json(folder / _FILE, asdict(task))


def read_task(folder: Path) -> SavedTask:
    """Read `task.json`; the defaults where a folder (of another library) has none.

    Raises:
        DataError: the file is damaged or has a key of another kind.
    """
    file = folder / _FILE
    if not file.is_file():
        return SavedTask()
    return from_json(SavedTask, read_json(file), where=file, remedy="is the model of a newer minilm? Upgrade it")
