"""What a teacher says about the training texts, stored: further epochs, seeds and students need no teacher.

In: the items that a teacher is asked about, in order: texts, or pairs of a query and a text, each with its location.
Out: a folder of files, each with the rows of consecutive items; rows of them, float32.

`manifest.json` says what the rows are of, and lists the files. Each is written atomically and then listed, so a pass
that is killed resumes after the last one listed.

W width of a row.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, Interrupted, UsageError
from minilm.files.atomic import make_folder
from minilm.files.checked import Count, PositiveInt, from_json
from minilm.files.json import read_json, write_json
from minilm.files.lock import locked_folder
from minilm.files.regular import TextsDigest, sha256_file, sha256_text
from minilm.files.tensors import map_arrays, write_arrays
from minilm.progress import Progress
from minilm.train.distributed import Ranks, gathered, wait_for_first

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ENDING = ".teacher"  # of the folder beside the training file
ITEMS_PER_FILE = 1024  # what a kill loses at most: with texts, two minutes of a base-size teacher on two cores
_MAX_FILES = 1024  # of more items, a file has more
_FORMAT = 3
_WAIT_SECONDS = 2.0

Item = TypeVar("Item", bound=str | tuple[str, str])
Located = tuple[Item, str]
"""An item, and where it was read, for messages."""
Rows = NDArray[np.float32]
StoredKind = Literal["vectors", "scores"]


@dataclass(frozen=True, kw_only=True)
class TeacherKey:
    """What decides the rows; each key has a folder.

    Attributes:
        teacher_config: checksum of the teacher's configuration.
        teacher_weights: of its weights.
        steps: of all else that it does: prompts, limit of tokens, pooling and the modules after it, similarity.
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
    def digest(self) -> str:
        """For the name of its folder."""
        return sha256_text(json.dumps(asdict(self), sort_keys=True))[:12]


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file: its name, number of texts, the largest relative change of a row, its SHA-256 and that of the texts."""

    file: str
    texts: PositiveInt
    change: float
    sha256: str
    texts_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder holds: rows of width `width` of `texts` texts, in files of `texts_per_file`."""

    key: TeacherKey
    teacher: str
    texts: Count
    width: PositiveInt
    texts_per_file: PositiveInt
    files: tuple[StoredFile, ...] = ()

    @property
    def num_files(self) -> int:
        """Files when it is complete."""
        return -(-self.texts // self.texts_per_file)

    @property
    def is_complete(self) -> bool:
        """Whether all files are there."""
        return len(self.files) == self.num_files


@dataclass(frozen=True, kw_only=True)
class Stored(Generic[Item]):
    """What is stored, and how it is made.

    Attributes:
        kind: what a row is; also the name of the array in a file.
        teacher: its name, as the recipe has it.
        key: what decides the rows.
        items: the number of items.
        width: W.
        load: loads the teacher; what it gives makes the rows of some items with these locations, `[n, W]`.
        packed: the rows as they are stored, and the largest relative change of one.
    """

    kind: StoredKind
    teacher: str
    key: TeacherKey
    items: int
    width: int
    load: Callable[[], Callable[[Sequence[Item], Sequence[str]], Rows]]
    packed: Callable[[Rows], tuple[NDArray[np.floating], float]]

    @property
    def per_file(self) -> int:
        """Items of a file."""
        return max(ITEMS_PER_FILE, -(-self.items // _MAX_FILES))


class TeacherStore(Generic[Item]):
    """The rows of a teacher for all items; `fill` computes those that are missing, `rows` reads them."""

    def __init__(self, stored: Stored[Item], root: Path) -> None:
        """Name the folder; nothing is computed. `root` is the folder of all teachers."""
        self._stored = stored
        self.width = stored.width
        self.folder = root / f"{stored.kind}-{stored.key.digest}"
        self.remedy = f"remove the folder {self.folder}, the run fills it again"
        self._arrays: list[NDArray[np.floating]] = []

    @property
    def identity(self) -> dict[str, str]:
        """What decides the rows, for comparing a run with an earlier one."""
        return {f"teacher {key}": str(value) for key, value in asdict(self._stored.key).items() if key != "format"}

    def progress(self) -> str:
        """How much is stored already."""
        found = self._manifest()
        done = 0 if found is None else sum(one.texts for one in found.files)
        return f"{done:,} of {self._stored.items:,} texts are stored in {self.folder}"

    def fill(self, items: Iterable[Located[Item]], ranks: Ranks) -> None:
        """Compute and store the rows of `items`, all of them in order, unless that is done; then open the files.

        Raises:
            DataError: a file is missing or damaged, or the teacher gives numbers that are not finite; names the item.
            SystemProblem: a file cannot be written.
            Interrupted: Ctrl-C; the finished files are kept.
        """
        found = self._manifest()
        if not gathered(found is not None and found.is_complete, ranks)[0]:
            with self._alone(ranks):
                wait_for_first(ranks)
                self._filled(items, ranks)
                wait_for_first(ranks)
        manifest = self._manifest()
        if manifest is None or not manifest.is_complete:
            raise DataError(f"{self.folder}: this process does not see it; choose a task.cache that all of them share")
        self._open(manifest)
        if manifest.files:
            change = max(one.change for one in manifest.files)
            lost = f"; largest relative change by storing: {change:.2g}" if change else ""
            logger.info("teacher's %s: %s%s", self._stored.kind, self.folder, lost)

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        """The rows of some items, `[n, W]`."""
        found = np.empty((len(numbers), self.width), dtype=np.float32)
        files, rows = np.divmod(numbers, self._stored.per_file)
        for file in np.unique(files).tolist():
            found[files == file] = self._arrays[file][rows[files == file]]
        return found

    def all_rows(self) -> Rows:
        """The rows of all items, `[n, W]`."""
        return self.rows(np.arange(self._stored.items))

    def _manifest(self) -> Manifest | None:
        """What is in the folder; raises DataError if the manifest is damaged or of something else."""
        path, own = self.folder / MANIFEST, self._stored
        if not path.is_file():
            return None
        found = from_json(Manifest, read_json(path), where=path, remedy=self.remedy)
        sizes = [min(own.per_file, own.items - first) for first in range(0, own.items, own.per_file)]
        listed = [(one.file, one.texts) for one in found.files]
        expected = [(self._file_name(number), size) for number, size in enumerate(sizes)]
        same = (found.key, found.texts, found.width, found.texts_per_file)
        if same != (own.key, own.items, own.width, own.per_file) or listed != expected[: len(listed)]:
            raise DataError(f"{path}: found {own.kind} of another teacher or other texts; {self.remedy}")
        return found

    def _file_name(self, number: int) -> str:
        return f"{self._stored.kind}-{number:05d}.safetensors"

    @contextlib.contextmanager
    def _alone(self, ranks: Ranks) -> Iterator[None]:
        """The folder for this run; another run that fills it with the same rows is waited for, by all processes."""
        with contextlib.ExitStack() as stack:
            waits = False
            while not gathered(not ranks.is_first or self._locked(stack), ranks)[0]:  # no collective waits for long
                if not waits:
                    logger.info("waiting for another run that fills %s", self.folder)
                waits = True
                time.sleep(_WAIT_SECONDS)
            yield

    def _locked(self, stack: contextlib.ExitStack) -> bool:
        """Whether no other run fills the folder; then it is locked until `stack` is closed."""
        make_folder(self.folder)
        try:
            stack.enter_context(locked_folder(self.folder, busy="filling it", instead="another task.cache"))
        except UsageError:
            return False
        return True

    def _filled(self, items: Iterable[Located[Item]], ranks: Ranks) -> None:
        """Write the files that are not listed; the processes take turns."""
        own = self._stored
        manifest = self._manifest() or Manifest(
            key=own.key, teacher=own.teacher, texts=own.items, width=own.width, texts_per_file=own.per_file
        )
        reading = _Reading(iter(items), own, self.folder)
        for one in manifest.files:
            if reading.next().texts_sha256 != one.texts_sha256:
                raise DataError(f"{self.folder / MANIFEST}: found {own.kind} of texts that were changed; {self.remedy}")
        done = len(manifest.files)
        compute = own.load() if done < manifest.num_files else None
        with self._reporting(manifest, ranks) as progress:
            for first in range(done, manifest.num_files, ranks.world_size):
                mine = None
                for number in range(first, min(first + ranks.world_size, manifest.num_files)):
                    chunk = reading.next()
                    if number - first == ranks.rank:
                        assert compute is not None
                        mine = self._write(number, self._finite(compute(chunk.items, chunk.locations), chunk), chunk)
                if first + ranks.world_size >= manifest.num_files:
                    reading.require_end()
                new = [one for one in gathered(mine, ranks) if one is not None]
                manifest = replace(manifest, files=(*manifest.files, *new))
                if ranks.is_first:
                    write_json(self.folder / MANIFEST, asdict(manifest))
                progress.advance(sum(one.texts for one in new))
        if ranks.is_first and not manifest.num_files:
            write_json(self.folder / MANIFEST, asdict(manifest))

    @contextlib.contextmanager
    def _reporting(self, manifest: Manifest, ranks: Ranks) -> Iterator[Progress]:
        try:
            with Progress(f"{self._stored.kind} of the teacher", unit="texts", silent=not ranks.is_first) as progress:
                progress.begin(manifest.texts, sum(one.texts for one in manifest.files))
                yield progress
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped by the user while filling {self.folder}; run the same command to resume after the last "
                "finished file"
            ) from None

    def _finite(self, rows: Rows, chunk: _Chunk[Item]) -> Rows:
        """The rows; raises DataError if one is not finite, such as the similarity of very long vectors."""
        bad = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(bad):
            raise DataError(
                f"{chunk.locations[bad[0]]}: {self._stored.kind} of task.teacher {self._stored.teacher} are not "
                "finite; choose another teacher"
            )
        return rows

    def _write(self, number: int, rows: Rows, chunk: _Chunk[Item]) -> StoredFile:
        packed, change = self._stored.packed(rows)
        path = self.folder / self._file_name(number)
        write_arrays(path, {self._stored.kind: packed})
        sha256 = sha256_file(path)
        return StoredFile(
            file=path.name, texts=len(rows), change=change, sha256=sha256, texts_sha256=chunk.texts_sha256
        )

    def _open(self, manifest: Manifest) -> None:
        """Compare the checksums of all files and map them."""
        arrays = []
        for one in manifest.files:
            file = self.folder / one.file
            if not file.is_file() or sha256_file(file) != one.sha256:
                raise DataError(f"{file}: missing or damaged, see its checksum in {MANIFEST}; {self.remedy}")
            array = map_arrays(file).get(self._stored.kind)
            if array is None or array.shape != (one.texts, self.width):
                raise DataError(f"{file}: sizes do not match {MANIFEST}; {self.remedy}")
            arrays.append(array)
        self._arrays = arrays


def cache_root(cache: str | None, train: Sequence[str]) -> Path:
    """The folder of what all teachers say: what the recipe names, else one beside the first training file."""
    if cache is not None:
        return Path(cache)
    first = Path(train[0]).resolve()
    return first.with_name(f"{first.name}{ENDING}")


@dataclass(frozen=True, kw_only=True)
class _Chunk(Generic[Item]):
    """The items of a file, the location of each, and the checksum of their texts."""

    items: Sequence[Item]
    locations: Sequence[str]
    texts_sha256: str


class _Reading(Generic[Item]):
    """The items of one file after another, which must be those of the key: training files are read again for them."""

    def __init__(self, items: Iterator[Located[Item]], stored: Stored[Item], folder: Path) -> None:
        self._items, self._stored, self._folder = items, stored, folder
        self._digest, self._done = TextsDigest(), 0

    def next(self) -> _Chunk[Item]:
        """The items of the next file; raises DataError if there are fewer."""
        chunk, own = list(islice(self._items, self._stored.per_file)), TextsDigest()
        for item, _ in chunk:
            for text in [item] if isinstance(item, str) else item:
                own.add(text)
                self._digest.add(text)
        if len(chunk) != min(self._stored.per_file, self._stored.items - self._done):
            raise self._changed()
        self._done += len(chunk)
        items, locations = [item for item, _ in chunk], [location for _, location in chunk]
        return _Chunk(items=items, locations=locations, texts_sha256=own.result()[0])

    def require_end(self) -> None:
        """Raise DataError unless these were all, and those of the key."""
        if next(self._items, None) is not None or self._digest.result()[0] != self._stored.key.texts:
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(
            f"{self._folder}: the training texts changed while the teacher read them; restore them, or remove this "
            "folder and repeat the run"
        )
