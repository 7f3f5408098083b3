"""The journal of a job: finished rows in a file next to the output, so that after a kill no row is lost or repeated.

In: rows by number, as they finish. Out: the same rows, also in a later process that runs the same job.

The file is `.NAME.unfinished` next to the output: a line that identifies the job, then one line per row. Each batch is
synced before it counts; a last line left incomplete by a kill is dropped. A file without rows is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from minilm.errors import DataError, UsageError
from minilm.files.atomic import reporting_writes
from minilm.files.json import parse_json_object
from minilm.files.lock import lock_file

_ROW = "row"


class Unfinished:
    """The finished rows of one job, held by one process at a time."""

    def __init__(self, output: Path, job: Mapping[str, object]) -> None:
        """Open the journal of an earlier start of the same job, or begin a new one.

        Args:
            output: the file that the job will write.
            job: JSON values that determine the rows.

        Raises:
            UsageError: the rows belong to another job (the message names the differences), or another process holds
                the journal.
            DataError: the file is damaged.
            SystemProblem: writing fails.
        """
        self.path, self._output = output.with_name(f".{output.name}.unfinished"), output
        self._offsets: dict[int, int] = {}
        with reporting_writes(output):
            self._file: BinaryIO = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            lock_file(self._file, self.path, busy=f"writing {output}", instead="another output")
            self._read(json.loads(json.dumps(job)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # everything that counts has been synced
            if not self._offsets:
                self.path.unlink(missing_ok=True)
            self._file.close()

    def __len__(self) -> int:
        """Number of finished rows."""
        return len(self._offsets)

    def __contains__(self, number: int) -> bool:
        return number in self._offsets

    def __getitem__(self, number: int) -> dict[str, object]:
        """The finished row with that number."""
        self._file.seek(self._offsets[number])
        row = parse_json_object(self._file.readline().decode(), self.path)
        del row[_ROW]
        return row

    def add(self, rows: Sequence[tuple[int, Mapping[str, object]]]) -> None:
        """Add finished rows; when this returns, they are on disk."""
        with reporting_writes(self._output):
            offset = self._file.seek(0, os.SEEK_END)
            lines = [(json.dumps({_ROW: number, **row}) + "\n").encode() for number, row in rows]
            self._file.write(b"".join(lines))
            self._sync()
        for (number, _), line in zip(rows, lines, strict=True):
            self._offsets[number] = offset
            offset += len(line)

    def remove(self) -> None:
        """Remove the file, once the output exists."""
        with reporting_writes(self._output):
            self.path.unlink()

    def _read(self, job: Mapping[str, object]) -> None:
        """Find the finished rows; without any, start the file over, whatever job it was for."""
        offset = 0
        found: Mapping[str, object] = {}
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break  # left incomplete by a kill
            try:
                values = parse_json_object(line.decode(errors="replace"), self.path, line=number)
            except DataError as error:
                raise DataError(f"{error}; remove the file to compute its rows again") from None
            if number == 1:
                found = values
            elif isinstance(row := values.get(_ROW), int):
                self._offsets[row] = offset
            offset += len(line)
        if self._offsets:
            self._require_same(job, found)
        else:
            offset = 0
        with reporting_writes(self._output):
            self._file.truncate(offset)
            self._file.seek(offset)
            if not offset:
                self._file.write((json.dumps(job) + "\n").encode())
            self._sync()

    def _require_same(self, job: Mapping[str, object], found: Mapping[str, object]) -> None:
        differing = [name for name in job if found.get(name) != job[name]]
        if differing:
            raise UsageError(
                f"{self.path} holds finished rows of another job (different: {', '.join(differing)}); repeat that "
                "command, choose another output, or remove the file to start over"
            )

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
