"""Generation for a file of sources, in chunks, resumable after a kill.

In: a model with its settings, a file of sources. Out: rows in the order of the file, and traces if requested.

Finished sources are kept in a journal beside the output (`journal.py`) until the output is complete.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from minilm.errors import DataError, Interrupted, UsageError
from minilm.files.atomic import writing_aside
from minilm.files.formats import require_file
from minilm.files.row_writer import json_lines, writing_rows
from minilm.files.rows import is_table, read_lines, read_rows
from minilm.files.source import StandardInput
from minilm.infer.batching import chunked
from minilm.infer.bulk.journal import Unfinished
from minilm.infer.sources import GenerationSource, Part
from minilm.progress import Progress
from minilm.tally import reporting_tally
from minilm.tasks.text.rows import usual_id_column
from minilm.text.detokenize import one_line
from minilm.text.pairs import Int32s

if TYPE_CHECKING:
    from minilm.decode.traces import Trace
    from minilm.infer.generate import Generated, Generation

_ROWS_PER_CHUNK = 1024  # sources sorted by length together


def read_sources(path: Path | StandardInput, fields: Sequence[str]) -> Iterator[GenerationSource]:
    """Read the sources of a file, one by one.

    Args:
        path: rows (.jsonl, .json with one object per line, .csv, .tsv, .parquet), or a text file with one source per
            line (any other suffix); all but .parquet optionally .gz; or standard input.
        fields: the columns that hold the parts of a source; not used for text files.

    Raises:
        UsageError: the path is missing or is not a file.
        DataError: a row cannot be read, lacks a column, or has an empty source, or the file has no rows; names file
            and line.
    """
    require_file(path)
    is_empty = True
    for source in _rows(path, fields) if is_table(path) else _lines(path):
        is_empty = False
        yield source
    if is_empty:
        raise DataError(f"{path}: found no row, expected at least one source")


def _rows(path: Path | StandardInput, fields: Sequence[str]) -> Iterator[GenerationSource]:
    for number, row in enumerate(read_rows(path)):
        location = f"{path}:{row.line}"
        parts = [_required(row.text_or_tokens(name, location, named_by="--field"), location) for name in fields]
        name = usual_id_column(row)  # for the reader: targets are matched by their location
        yield GenerationSource(parts=parts, id=str(number if name is None else row.values[name]), location=location)


def _lines(path: Path | StandardInput) -> Iterator[GenerationSource]:
    for number, (line, text) in enumerate(read_lines(path)):
        yield GenerationSource(parts=[_required(text, f"{path}:{line}")], id=str(number), location=f"{path}:{line}")


def _required(part: Part, location: str) -> Part:
    if not (part.strip() if isinstance(part, str) else part):
        raise DataError(f"{location}: the source is empty, so there is nothing to generate from; fill or remove it")
    return part


@dataclass(frozen=True, kw_only=True)
class GenerationJob:
    """A file of sources to generate for, and where the results go.

    Attributes:
        sources: what to generate from; read once, and kept in memory as token ids.
        output: file for the targets, with a suffix of `row_writer.py`; None for JSON lines on standard output.
        as_lines: write the best target of each source as a line of text, whatever the suffix.
        traces: file for the score traces, if any.
        identity: JSON values by name: what the targets depend on besides sources, tokenizer and settings.
    """

    sources: Iterable[GenerationSource]
    output: Path | None
    as_lines: bool
    traces: Path | None
    identity: Mapping[str, object]


def generate_file(generation: Generation, job: GenerationJob) -> int:
    """Generate for every source of a file, with progress; a file appears only when it is complete.

    Returns:
        The number of sources.

    Raises:
        UsageError: an output path is not usable, finished sources of another job are in the way, or another process
            is writing the same output.
        DataError: a source cannot be read or has no tokens; names the line. Finished sources are kept.
        SystemProblem: writing fails.
        Interrupted: Ctrl-C; finished sources are kept.
    """
    try:
        with Progress("generate", unit="rows") as progress:
            return _generate(generation, job, progress)
    except KeyboardInterrupt:
        rest = "" if job.output is None else f"; run the same command to finish {job.output}"
        raise Interrupted(f"stopped by the user{rest}") from None


def _generate(generation: Generation, job: GenerationJob, progress: Progress) -> int:
    for path in filter(None, (job.output, job.traces)):  # checked now, not after everything has been computed
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file in it")
    if job.traces is not None and not job.traces.parent.is_dir():
        raise UsageError(f"{job.traces}: the folder {job.traces.parent} does not exist; create it first")
    framed: list[Int32s] = []
    ids: list[str] = []
    with reporting_tally() as tally:
        for part in chunked(job.sources, _ROWS_PER_CHUNK):  # check every source before computing the first
            framed += generation.encode(part, tally)
            ids += [source.id for source in part]
    total = len(framed)
    if job.output is None:
        _print(generation, framed, ids, progress)
        return total
    identity = {**job.identity, **generation.identity, "input": _fingerprint(framed, ids)}
    with Unfinished(job.output, identity) as finished:
        progress.begin(total, len(finished))
        for chunk in chunked(range(total), _ROWS_PER_CHUNK):
            left = [number for number in chunk if number not in finished]
            for batch in generation.run([framed[number] for number in left], left):
                finished.add([(left[index], _record(ids[left[index]], one)) for index, one in batch])
                progress.advance(len(batch))
        if job.traces is not None:
            from minilm.decode.traces import write_traces

            write_traces(job.traces, [_trace(finished[number]) for number in range(total)])
        _write(job.output, (finished[number] for number in range(total)), as_lines=job.as_lines)
        finished.remove()
    return total


def _print(generation: Generation, framed: Sequence[Int32s], ids: Sequence[str], progress: Progress) -> None:
    """Generate and print JSON lines, chunk by chunk."""
    progress.begin(len(framed))
    with json_lines(sys.stdout.buffer) as write:
        for chunk in chunked(range(len(framed)), _ROWS_PER_CHUNK):
            rows: dict[int, Mapping[str, object]] = {}
            for batch in generation.run([framed[number] for number in chunk], chunk):
                rows |= {chunk[index]: _record(ids[chunk[index]], one) for index, one in batch}
                progress.advance(len(batch))
            write([rows[number] for number in chunk])


def _write(path: Path, rows: Iterable[Mapping[str, object]], *, as_lines: bool) -> None:
    if as_lines:
        with writing_aside(path) as file:
            for row in rows:
                file.write((one_line([str(row["prediction"])]) + "\n").encode(errors="backslashreplace"))
        return
    with writing_rows(path) as write:
        for chunk in chunked(rows, _ROWS_PER_CHUNK):
            write([{name: value for name, value in row.items() if name != "trace"} for row in chunk])


def _fingerprint(framed: Sequence[Int32s], ids: Sequence[str]) -> str:
    """Hex SHA-256 of the token ids and the ids of all sources."""
    digest = hashlib.sha256()
    for tokens, name in zip(framed, ids, strict=True):
        digest.update(json.dumps([name, len(tokens)]).encode())
        digest.update(tokens.tobytes())
    return digest.hexdigest()


def _record(key: str, one: Generated) -> dict[str, object]:
    """What is kept of a finished source."""
    best = one.candidates[0]
    row: dict[str, object] = {"id": key, "prediction": best.text, "score": best.score}
    if len(one.candidates) > 1:
        row["candidates"] = [asdict(candidate) for candidate in one.candidates]
    return row | ({} if one.trace is None else {"trace": asdict(one.trace)})


def _trace(row: Mapping[str, object]) -> Trace:
    from minilm.decode.traces import Trace

    return Trace(**cast("dict[str, list[list[int]]]", row["trace"]))  # type: ignore[arg-type]
