"""A teacher's vectors of the training texts, stored: further epochs, seeds and students need no teacher.

In: a teacher's folder, the training texts in order. Out: a folder of files, each with the vectors of consecutive texts;
rows of them, float32.

`manifest.json` says what the vectors are of, and lists the files. Each is written atomically and then listed, so a pass
that is killed resumes after the last one listed. A file is float16 where that changes no vector by more than a
thousandth of its length, else float32; the manifest states the largest change.

W width of a vector.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, Interrupted, UsageError
from minilm.files.atomic import make_folder
from minilm.files.checked import Count, PositiveInt, from_json
from minilm.files.json import read_json, write_json
from minilm.files.lock import locked_folder
from minilm.files.regular import sha256_file, sha256_text
from minilm.files.tensors import map_arrays, write_arrays
from minilm.finetune.embed_teacher import VectorTeacher
from minilm.finetune.vector_encoder import VectorEncoder
from minilm.model.metadata import model_checksums
from minilm.progress import Progress
from minilm.train.distributed import Ranks, gathered, wait_for_first

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ENDING = ".teacher"  # of the folder beside the training file
TEXTS_PER_FILE = 16384  # what a kill loses at most, and what is held in memory meanwhile
_FORMAT = 1
_MAX_CHANGE = 1e-3
_ARRAY = "vectors"
_WAIT_SECONDS = 2.0

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class VectorsKey:
    """What decides the vectors; each key has a folder.

    Attributes:
        teacher_config: checksum of the teacher's configuration.
        teacher_weights: of its weights.
        steps: of prompt, limit of tokens, pooling and the modules after it.
        tokenizer: its fingerprint.
        texts: checksum of the training texts, in order.
        format: of the files.
    """

    teacher_config: str
    teacher_weights: str
    steps: str
    tokenizer: str
    texts: str
    format: Count = _FORMAT

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"vectors-{sha256_text(json.dumps(asdict(self), sort_keys=True))[:12]}"


@dataclass(frozen=True, kw_only=True)
class VectorsFile:
    """One file: its name, number of texts, the largest relative change of a vector, and its SHA-256."""

    file: str
    texts: PositiveInt
    change: float
    sha256: str


@dataclass(frozen=True, kw_only=True)
class VectorsManifest:
    """What a folder holds: vectors of width `width` of `texts` texts, in files of `texts_per_file`."""

    key: VectorsKey
    teacher: str
    texts: Count
    width: PositiveInt
    texts_per_file: PositiveInt
    files: tuple[VectorsFile, ...] = ()

    @property
    def num_files(self) -> int:
        """Files when it is complete."""
        return -(-self.texts // self.texts_per_file)

    @property
    def is_complete(self) -> bool:
        """Whether all files are there."""
        return len(self.files) == self.num_files


class TeacherVectors:
    """The vectors of a teacher for the training texts; `fill` computes those that are missing, `rows` reads them."""

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
        self.prompt, self.width = teacher.prompt, teacher.width
        sums = model_checksums(teacher.encoder)
        self._key = VectorsKey(
            teacher_config=sums["config"],
            teacher_weights=sums["weights"],
            steps=sha256_text(json.dumps([self.prompt, self._steps.checksum()])),
            tokenizer=teacher.tokenizer.fingerprint,
            texts=texts[0],
        )
        self._texts = texts[1]
        self.folder = root / self._key.name
        self.remedy = f"remove the folder {self.folder}, the run fills it again"
        self._arrays: list[NDArray[np.floating]] = []

    @property
    def identity(self) -> dict[str, str]:
        """What decides the vectors, for comparing a run with an earlier one."""
        return {f"teacher {key}": str(value) for key, value in asdict(self._key).items()}

    def description(self) -> str:
        """One sentence about what is stored already."""
        found = self._manifest()
        stored = 0 if found is None else sum(one.texts for one in found.files)
        return (
            f"{self._teacher.folder}, vectors of width {self.width}; {stored:,} of {self._texts:,} texts are stored in "
            f"{self.folder}"
        )

    def load_teacher(self) -> VectorEncoder:
        """The teacher as it computes the stored vectors, with `prompt`; raises as `minilm.load` or `load_teacher`."""
        return self._teacher.loaded(self._steps)

    def fill(self, texts: Iterable[str], ranks: Ranks) -> None:
        """Compute and store the vectors of `texts`, all of them in order, unless that is done; then open the files.

        Raises:
            DataError: a file is missing or damaged, or the teacher gives numbers that are not finite.
            SystemProblem: a file cannot be written.
            Interrupted: Ctrl-C; the finished files are kept.
        """
        found = self._manifest()
        if not gathered(found is not None and found.is_complete, ranks)[0]:
            with self._alone(ranks):
                wait_for_first(ranks)
                self._filled(texts, ranks)
                wait_for_first(ranks)
        manifest = self._manifest()
        if manifest is None or not manifest.is_complete:
            raise DataError(f"{self.folder}: this process does not see it; choose a task.cache that all of them share")
        self._open(manifest)
        if manifest.files:
            change = max(one.change for one in manifest.files)
            logger.info("teacher's vectors: %s; largest relative change by storing: %.2g", self.folder, change)

    def rows(self, numbers: NDArray[np.int64]) -> Vectors:
        """The vectors of some texts, `[n, W]`."""
        found = np.empty((len(numbers), self.width), dtype=np.float32)
        files, rows = np.divmod(numbers, TEXTS_PER_FILE)
        for file in np.unique(files).tolist():
            found[files == file] = self._arrays[file][rows[files == file]]
        return found

    def _manifest(self) -> VectorsManifest | None:
        """What is in the folder; raises DataError if the manifest is damaged or of something else."""
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        found = from_json(VectorsManifest, read_json(path), where=path, remedy=self.remedy)
        sizes = [min(TEXTS_PER_FILE, self._texts - first) for first in range(0, self._texts, TEXTS_PER_FILE)]
        listed = [(one.file, one.texts) for one in found.files]
        expected = [(_file_name(number), size) for number, size in enumerate(sizes)]
        same = (found.key, found.texts, found.width, found.texts_per_file)
        if same != (self._key, self._texts, self.width, TEXTS_PER_FILE) or listed != expected[: len(listed)]:
            raise DataError(f"{path}: found vectors of another teacher or other texts; {self.remedy}")
        return found

    @contextlib.contextmanager
    def _alone(self, ranks: Ranks) -> Iterator[None]:
        """The folder for this run; another run that fills it with the same vectors is waited for."""
        if not ranks.is_first:
            yield
            return
        make_folder(self.folder)
        with contextlib.ExitStack() as stack:
            waits = False
            while True:
                try:
                    stack.enter_context(locked_folder(self.folder, busy="filling it", instead="another task.cache"))
                    break
                except UsageError:
                    if not waits:
                        logger.info("waiting for another run that fills %s", self.folder)
                    waits = True
                    time.sleep(_WAIT_SECONDS)
            yield

    def _filled(self, texts: Iterable[str], ranks: Ranks) -> None:
        """Write the files that are not listed; the processes take turns."""
        manifest = self._manifest() or VectorsManifest(
            key=self._key,
            teacher=self._teacher.name,
            texts=self._texts,
            width=self.width,
            texts_per_file=TEXTS_PER_FILE,
        )
        done = len(manifest.files)
        teacher = self.load_teacher() if done < manifest.num_files else None
        stream = islice(texts, done * TEXTS_PER_FILE, None)
        with self._reporting(manifest, ranks) as progress:
            for first in range(done, manifest.num_files, ranks.world_size):
                own = None
                for number in range(first, min(first + ranks.world_size, manifest.num_files)):
                    chunk = list(islice(stream, TEXTS_PER_FILE))
                    if number - first == ranks.rank:
                        assert teacher is not None
                        own = self._write(number, chunk, teacher)
                new = [one for one in gathered(own, ranks) if one is not None]
                manifest = replace(manifest, files=(*manifest.files, *new))
                if ranks.is_first:
                    write_json(self.folder / MANIFEST, asdict(manifest))
                progress.advance(sum(one.texts for one in new))
        if ranks.is_first and not manifest.num_files:
            write_json(self.folder / MANIFEST, asdict(manifest))

    @contextlib.contextmanager
    def _reporting(self, manifest: VectorsManifest, ranks: Ranks) -> Iterator[Progress]:
        try:
            with Progress("vectors of the teacher", unit="texts", silent=not ranks.is_first) as progress:
                progress.begin(manifest.texts, sum(one.texts for one in manifest.files))
                yield progress
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped by the user while filling {self.folder}; run the same command to resume after the last "
                "finished file"
            ) from None

    def _write(self, number: int, texts: Sequence[str], teacher: VectorEncoder) -> VectorsFile:
        vectors = teacher.encode(texts, prompt=self.prompt)
        stored, change = _stored(vectors)
        path = self.folder / _file_name(number)
        write_arrays(path, {_ARRAY: stored})
        return VectorsFile(file=path.name, texts=len(texts), change=change, sha256=sha256_file(path))

    def _open(self, manifest: VectorsManifest) -> None:
        """Compare the checksums of all files and map them."""
        arrays = []
        for one in manifest.files:
            file = self.folder / one.file
            if not file.is_file() or sha256_file(file) != one.sha256:
                raise DataError(f"{file}: missing or damaged, see its checksum in {MANIFEST}; {self.remedy}")
            array = map_arrays(file).get(_ARRAY)
            if array is None or array.shape != (one.texts, self.width):
                raise DataError(f"{file}: sizes do not match {MANIFEST}; {self.remedy}")
            arrays.append(array)
        self._arrays = arrays


def cache_root(cache: str | None, train: Sequence[str]) -> Path:
    """The folder of the vectors of all teachers: what the recipe says, else beside the first training file."""
    if cache is not None:
        return Path(cache)
    first = Path(train[0]).resolve()
    return first.with_name(f"{first.name}{ENDING}")


def _file_name(number: int) -> str:
    return f"vectors-{number:05d}.safetensors"


def _stored(vectors: Vectors) -> tuple[NDArray[np.floating], float]:
    """The vectors as they are stored, and the largest |change| / |vector| of one, Euclidean."""
    with np.errstate(over="ignore"):
        halves = vectors.astype(np.float16)
    norms = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float32).tiny)
    change = float((np.linalg.norm(halves.astype(np.float32) - vectors, axis=1) / norms).max(initial=0.0))
    return (halves, change) if change <= _MAX_CHANGE else (vectors, 0.0)
