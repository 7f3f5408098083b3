"""A teacher's vectors of the training texts, stored.

In: a teacher's folder, the training texts in order. Out: a store of them, float32. A file is float16 where that changes
no vector by more than a thousandth of its length, else float32; the manifest states the largest change.

W width of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.files.regular import sha256_text
from minilm.finetune.embed_teacher import VectorTeacher
from minilm.finetune.teacher_store import Rows, Stored, TeacherKey, TeacherStore
from minilm.finetune.vector_encoder import VectorEncoder
from minilm.model.metadata import model_checksums

_MAX_CHANGE = 1e-3


class TeacherVectors(TeacherStore[str]):
    """The vectors of a teacher for the training texts."""

    def __init__(self, teacher: VectorTeacher, root: Path, *, texts: tuple[str, int], max_tokens: int) -> None:
        """Name the folder of its vectors; nothing is computed.

        Args:
            teacher: the teacher.
            root: folder of the vectors of all teachers.
            texts: checksum and number of the texts, of `sha256_texts`.
            max_tokens: of a text; the teacher's own limit may be lower.

        Raises:
            DataError: its weights are missing, or its modules do not fit each other.
        """
        self._teacher = teacher
        own = teacher.embedding
        self._steps = replace(own, max_tokens=min(own.max_tokens, max_tokens))
        self.prompt = teacher.prompt
        sums = model_checksums(teacher.encoder)
        stored = Stored[str](
            kind="vectors",
            teacher=teacher.name,
            key=TeacherKey(
                teacher_config=sums["config"],
                teacher_weights=sums["weights"],
                steps=sha256_text(json.dumps([self.prompt, self._steps.checksum()])),
                tokenizer=teacher.tokenizer.fingerprint,
                texts=texts[0],
            ),
            items=texts[1],
            width=teacher.width,
            load=self._encoder,
            packed=_packed,
        )
        super().__init__(stored, root)

    def description(self) -> str:
        """One sentence about what is stored already."""
        return f"{self._teacher.folder}, vectors of width {self.width}; {self.progress()}"

    def load_teacher(self) -> VectorEncoder:
        """The teacher as it computes the stored vectors, with `prompt`; raises as `minilm.load` or `load_teacher`."""
        return self._teacher.loaded(self._steps)

    def _encoder(self) -> Callable[[Sequence[str], Sequence[str]], Rows]:
        teacher = self.load_teacher()
        return lambda texts, locations: teacher.encode(texts, locations, prompt=self.prompt)


def _packed(vectors: Rows) -> tuple[NDArray[np.floating], float]:
    """The vectors as they are stored, and the largest |change| / |vector| of one, Euclidean."""
    with np.errstate(over="ignore"):
        halves = vectors.astype(np.float16)
    norms = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float32).tiny)
    change = float((np.linalg.norm(halves.astype(np.float32) - vectors, axis=1) / norms).max(initial=0.0))
    return (halves, change) if change <= _MAX_CHANGE else (vectors, 0.0)
