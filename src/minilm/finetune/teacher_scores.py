"""A teacher's scores of the training pairs, stored.

In: a teacher of scores, the pairs of each query with its texts in order. Out: a store of the scores, one float32 for
each pair: where a loss learns margins, half precision would be too coarse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.finetune.score_teacher import Pair, ScoresPairs, ScoreTeacher
from minilm.finetune.teacher_store import Rows, Stored, TeacherKey, TeacherStore


class TeacherScores(TeacherStore[Pair]):
    """The scores of a teacher for the training pairs, as rows of width 1."""

    def __init__(self, teacher: ScoreTeacher, root: Path, *, texts: tuple[str, int]) -> None:
        """Name the folder of its scores; nothing is computed.

        Args:
            teacher: the teacher.
            root: folder of what all teachers say.
            texts: checksum and number of the texts of all pairs, of `sha256_texts`.
        """
        self._teacher = teacher
        stored = Stored[Pair](
            kind="scores",
            teacher=teacher.name,
            key=TeacherKey(
                teacher_config=teacher.checksums["config"],
                teacher_weights=teacher.checksums["weights"],
                steps=teacher.steps,
                tokenizer=teacher.tokenizer,
                texts=texts[0],
            ),
            items=texts[1] // 2,
            width=1,
            load=self._scorer,
            packed=_packed,
        )
        super().__init__(stored, root)

    def description(self) -> str:
        """One sentence about what is stored already."""
        return f"{self._teacher.folder}, {self._teacher.gives}; {self.progress()}"

    def load_teacher(self) -> ScoresPairs:
        """The teacher; raises as `minilm.load` or `load_teacher`."""
        return self._teacher.loaded()

    def all_scores(self) -> NDArray[np.float32]:
        """The scores of all pairs, `[n]`."""
        return self.all_rows()[:, 0]

    def _scorer(self) -> Callable[[Sequence[Pair], Sequence[str]], Rows]:
        teacher = self.load_teacher()
        return lambda pairs, locations: teacher.score(pairs, locations)[:, None]


def _packed(scores: Rows) -> tuple[NDArray[np.floating], float]:
    return scores, 0.0
