"""Vectors for the rows of a file, as a stream: in bounded memory, resumable after a kill.

In: a loaded model, a file of texts or standard input. Out: a file of vectors in the order of the rows.

The input is read in chunks, whose rows and characters are limited. What is computed of a chunk is kept in a journal
beside the output (`journal.py`) with the hash of its ids and texts, by which a restart knows the input again.

D dimensions.
"""

from __future__ import annotations

import logging
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from minilm.errors import DataError, Interrupted, UsageError
from minilm.files.fields import kind_of
from minilm.files.formats import ByteMeter
from minilm.files.regular import sha256_file, sha256_texts
from minilm.files.rows import Row, read_rows
from minilm.files.source import Source
from minilm.files.vector_writer import holds_ids, vector_lines, writing_vectors
from minilm.infer.api import LoadedModel
from minilm.infer.batching import TEXTS_PER_CHUNK
from minilm.infer.bulk.journal import Unfinished
from minilm.infer.bulk.seen_ids import SeenIds
from minilm.infer.vector_precision import STORED_TYPES, Float32s, StoredVectors, ranges_of, stored_width
from minilm.infer.vectors import VectorOptions, cut_part, stored_part
from minilm.model.metadata import model_checksums
from minilm.model.precision import Precision
from minilm.model.vector_ranges import RANGES_SUFFIX, read_vector_ranges, write_vector_ranges
from minilm.progress import BYTES, Progress
from minilm.tally import Tally, reporting_tally
from minilm.tasks.text.rows import usual_id_column

logger = logging.getLogger(__name__)

CHARACTERS_PER_CHUNK = 2**21
"""Most characters of ids and texts in a chunk; a longer row is a separate chunk."""
_RANGES = -1  # number in the journal of the ranges that were calibrated; chunks are numbered from 0
_ENOUGH = 100  # calibration texts, as in sentence-transformers


@dataclass(frozen=True, kw_only=True, slots=True)
class TextToEmbed:
    """A text with its id, and its location for messages."""

    id: str
    text: str
    location: str


@dataclass(frozen=True, kw_only=True)
class EmbedJob:
    """A file of texts to embed, and where the vectors go.

    Attributes:
        source: rows, or one text per line.
        output: a file with a suffix of `vector_writer.py`; None for JSON lines on standard output.
        text: column of the text.
        id: column of the id; None: the first of `id`, `idx` and `index` that exists, else the number of the row from 0.
        options: prompt, dimensions and precision of the vectors.
        calibrate: texts that give the ranges of int8, or ranges of an earlier job; None: those of the model folder.
        precision: of the engine.
        locations: where the rows of `source` come from, for messages; None: the source itself.
    """

    source: Source
    output: Path | None
    text: str
    id: str | None
    options: VectorOptions
    calibrate: Path | None
    precision: Precision
    locations: Sequence[str] | None = None


def is_ranges_file(path: Path) -> bool:
    """Whether a calibration file holds ranges, not texts."""
    return path.name.endswith(RANGES_SUFFIX)


def read_texts(
    source: Source, *, columns: Sequence[str], id_column: str | None, meter: ByteMeter | None = None
) -> Iterator[TextToEmbed]:
    """Yield the texts of a file, one by one; those of several columns are joined by a space.

    `meter` counts the bytes that have been read.

    Raises:
        UsageError: the path is missing or of an unknown kind.
        DataError: a row cannot be read, or lacks its text or id; names file and line.
    """
    for number, row in enumerate(read_rows(source, text_column=columns[0], meter=meter)):
        location = f"{source}:{row.line}"
        if number == 0 and id_column is None:
            id_column = usual_id_column(row)
        parts = [row.text(column, location, named_by="--text") for column in columns]
        whole = " ".join(parts).strip() if len(parts) > 1 else parts[0]
        name = str(number) if id_column is None else _id(row, id_column, location)
        yield TextToEmbed(id=name, text=whole, location=location)


def _id(row: Row, column: str, location: str) -> str:
    value = row.values.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        found = f"{column} is {kind_of(value)}" if column in row.values and value != "" else f"found no {column}"
        raise DataError(
            f"{location}: {found}, expected a text or a whole number as the id of the row; correct it, or name another "
            "column with --id"
        )
    return str(value)


def chunks_of(rows: Iterable[TextToEmbed]) -> Iterator[list[TextToEmbed]]:
    """Split a stream of rows into chunks within `TEXTS_PER_CHUNK` and `CHARACTERS_PER_CHUNK`."""
    chunk: list[TextToEmbed] = []
    characters = 0
    for row in rows:
        added = len(row.id) + len(row.text)
        if chunk and (len(chunk) == TEXTS_PER_CHUNK or characters + added > CHARACTERS_PER_CHUNK):
            yield chunk
            chunk, characters = [], 0
        chunk.append(row)
        characters += added
    if chunk:
        yield chunk


def embed_file(model: LoadedModel, job: EmbedJob) -> int:
    """Embed every row of a file, with progress; the output appears when it is complete.

    With int8, `NAME.ranges.json` beside it holds the ranges.

    Returns:
        The number of rows.

    Raises:
        UsageError: the input or the job differs from that of the finished rows, another process is writing the same
            output, or there are no ranges for int8.
        DataError: a row cannot be read, or has the id of an earlier one; names the line. Finished rows are kept. Or
            the input has no rows.
        SystemProblem: writing fails.
        Interrupted: Ctrl-C; finished rows are kept.
    """
    try:
        with Progress("embed", unit=BYTES) as progress, reporting_tally() as tally:
            run = _Run(model=model, job=job, progress=progress, tally=tally)
            if job.output is None:
                run.to_standard_output()
            else:
                run.to_file(job.output)
    except KeyboardInterrupt:
        rest = "" if job.output is None else f"; run the same command to finish {job.output}"
        raise Interrupted(f"stopped by the user{rest}") from None
    return run.count


@dataclass(kw_only=True)
class _Run:
    """One run of a job; `count` is the number of rows so far, `read` counts the bytes of the input."""

    model: LoadedModel
    job: EmbedJob
    progress: Progress
    tally: Tally
    count: int = 0
    read: ByteMeter = field(default_factory=ByteMeter)
    ids: SeenIds = field(default_factory=SeenIds)

    def to_file(self, output: Path) -> None:
        """Compute what is left of the job, then write the output."""
        identity = _identity(self.model, self.job)
        with Unfinished(output, identity) as finished:
            ranges_2D = _ranges(self.model, self.job, finished)
            chunks, number = self._chunks(), 0
            while number in finished:
                self._recall(next(chunks, []), finished[number])
                number += 1
            self._begin()
            for chunk in chunks:
                found = Tally()
                vectors = self._embedded(chunk, ranges_2D, found)
                finished.add([(number, _record(chunk, vectors, found))])
                self._count(chunk, found)
                number += 1
            self._require_rows()
            if ranges_2D is not None:
                write_vector_ranges(output.with_name(output.name + RANGES_SUFFIX), ranges_2D)
            self._write(output, (finished[one] for one in range(number)), facts=identity)
            finished.remove()

    def to_standard_output(self) -> None:
        """Print JSON lines, chunk by chunk."""
        ranges_2D = _ranges(self.model, self.job, None)
        self._begin()
        for chunk in self._chunks():
            found = Tally()
            vectors = self._embedded(chunk, ranges_2D, found)
            sys.stdout.buffer.write(vector_lines([row.id for row in chunk], vectors))
            sys.stdout.buffer.flush()
            self._count(chunk, found)
        self._require_rows()

    def _require_rows(self) -> None:
        if not self.count:
            raise DataError(f"{self.job.source}: found no row, expected at least one text")

    def _chunks(self) -> Iterator[list[TextToEmbed]]:
        output = self.job.output
        for chunk in chunks_of(_rows(self.job, self.read)):
            if output is None or holds_ids(output):
                self._require_new_ids(chunk)
            yield chunk

    def _require_new_ids(self, chunk: Sequence[TextToEmbed]) -> None:
        """Raise DataError if a row has the id of an earlier one, before anything is computed of the chunk."""
        rows: dict[str, TextToEmbed] = {}
        for row in chunk:
            if row.id in rows:
                raise _repeated(row, rows[row.id].location)
            rows[row.id] = row
        for index in self.ids.add(list(rows)):
            row = chunk[index]
            if not isinstance(self.job.source, Path):
                raise _repeated(row, "an earlier row")
            first = next(one for one in _rows(self.job) if one.id == row.id)
            if first.location != row.location:  # else only their hashes are equal
                raise _repeated(row, first.location)

    def _recall(self, chunk: Sequence[TextToEmbed], record: Mapping[str, object]) -> None:
        """Count what was found in a finished chunk; raises UsageError if `chunk` is another one."""
        if _digest(chunk) != record["sha256"]:
            where = chunk[0].location if chunk else f"end of {self.job.source}"
            raise UsageError(
                f"{where}: rows {self.count:,} and following (from 0) are not those that were embedded for "
                f"{self.job.output} before; repeat the command with that input, or choose another output"
            )
        for what, found in cast("Mapping[str, Mapping[str, Any]]", record["found"]).items():
            self.tally.add(what, found["first"], of=found["of"], count=found["count"])
        self.count += len(chunk)

    def _begin(self) -> None:
        source, done = self.job.source, self.read.done
        self.progress.begin(source.stat().st_size if isinstance(source, Path) else None, done)
        self._shown = done

    def _embedded(self, chunk: Sequence[TextToEmbed], ranges_2D: Float32s | None, found: Tally) -> StoredVectors:
        locations = [row.location for row in chunk]
        found.add("texts are empty", [row.location for row in chunk if not row.text.strip()], of=len(chunk))
        options, texts = self.job.options, [row.text for row in chunk]
        return stored_part(self.model, texts, options=options, ranges_2D=ranges_2D, locations=locations, tally=found)

    def _count(self, chunk: Sequence[TextToEmbed], found: Tally) -> None:
        for what, one in found:
            self.tally.add(what, one.first, of=one.of, count=one.count)
        self.count += len(chunk)
        self.progress.advance(self.read.done - self._shown, status=f"{self.count:,} rows")
        self._shown = self.read.done

    def _write(self, output: Path, records: Iterable[Mapping[str, object]], *, facts: Mapping[str, object]) -> None:
        options = self.job.options
        width, dtype = stored_width(options.dimensions, options.precision), STORED_TYPES[options.precision]
        with writing_vectors(output, dtype=dtype, width=width, count=self.count, facts=facts) as write:
            for record in records:
                vectors = np.frombuffer(b64decode(cast("str", record["vectors"])), dtype=dtype)
                write(cast("list[str]", record["ids"]), vectors.reshape(-1, width))


def _rows(job: EmbedJob, meter: ByteMeter | None = None) -> Iterator[TextToEmbed]:
    """The rows of the source."""
    rows = read_texts(job.source, columns=(job.text,), id_column=job.id, meter=meter)
    if job.locations is None:
        return rows
    return (replace(row, location=location) for row, location in zip(rows, job.locations, strict=True))


def _repeated(row: TextToEmbed, first: str) -> DataError:
    return DataError(
        f"{row.location}: found the id {row.id!r:.80} of {first} again; expected another one for each row; correct one "
        "of the two, or name another column with --id"
    )


def _record(chunk: Sequence[TextToEmbed], vectors: StoredVectors, found: Tally) -> dict[str, object]:
    """What is kept of a finished chunk."""
    return {
        "sha256": _digest(chunk),
        "ids": [row.id for row in chunk],
        "vectors": b64encode(vectors.tobytes()).decode(),
        "found": {what: asdict(one) for what, one in found},
    }


def _digest(chunk: Sequence[TextToEmbed]) -> str:
    """Hex SHA-256 of the ids and texts of a chunk."""
    return sha256_texts(part for row in chunk for part in (row.id, row.text))[0]


def _ranges(model: LoadedModel, job: EmbedJob, finished: Unfinished | None) -> Float32s | None:
    """The ranges of int8, `[2, D]`; those of calibration texts are computed once and kept in the journal."""
    if job.options.precision != "int8":
        return None
    if job.calibrate is None:
        return model.vector_ranges(job.options.dimensions)
    if is_ranges_file(job.calibrate):
        return read_vector_ranges(job.calibrate, dimensions=job.options.dimensions)
    if finished is None:
        return _calibrated(model, job, job.calibrate)
    if _RANGES not in finished:
        finished.add([(_RANGES, {"ranges": _calibrated(model, job, job.calibrate).tolist()})])
    return np.array(finished[_RANGES]["ranges"], dtype=np.float32)


def _calibrated(model: LoadedModel, job: EmbedJob, path: Path) -> Float32s:
    """The lowest and the highest value of each dimension in the vectors of a file of texts, `[2, D]`."""
    found: list[Float32s] = []
    count = 0
    is_source = path == job.source  # what is found in it is reported when it is embedded
    rows = _rows(job) if is_source else read_texts(path, columns=(job.text,), id_column=None)
    with nullcontext(Tally()) if is_source else reporting_tally() as tally:
        for chunk in chunks_of(rows):
            locations = [row.location for row in chunk]
            texts = [row.text for row in chunk]
            found.append(cut_part(model, texts, options=job.options, locations=locations, tally=tally))
            found = [ranges_of(np.concatenate(found))]
            count += len(chunk)
    if count < 2:
        raise DataError(f"{path}: found {count} texts, which have no ranges; expected some hundreds of typical ones")
    if count < _ENOUGH and job.locations is None:  # else these are all texts that will have the ranges
        logger.warning(
            "%s has %d texts; ranges of int8 are more stable with some hundreds of typical ones", path, count
        )
    return found[0]


def vector_identity(model: LoadedModel, prompt: str) -> dict[str, object]:
    """JSON values by name: what a text's vector depends on besides the text."""
    return {
        "model": model_checksums(model.folder),
        "tokenizer": model.embedding_tokenizer.fingerprint,
        "embedding": model.embedding.checksum(),
        "prompt": prompt,
    }


def _identity(model: LoadedModel, job: EmbedJob) -> dict[str, object]:
    """JSON values by name: what the vectors depend on besides the input."""
    options = job.options
    ranges_file = job.calibrate or model.ranges_file
    return {
        **vector_identity(model, options.prompt),
        "engine": type(model.engine).__name__,
        "precision": job.precision,
        "dimensions": options.dimensions,
        "vectors": options.precision,
        "ranges": sha256_file(ranges_file) if options.precision == "int8" and ranges_file.is_file() else None,
        "text": job.text,
        "id": job.id,
    }
