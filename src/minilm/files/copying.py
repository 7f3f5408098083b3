"""Copies of files.

In: a file, the path of its copy. Out: the copy, complete or not there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from minilm.files.atomic import writing_aside
from minilm.files.regular import reading

_CHUNK_BYTES = 2**20


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file; a link is followed.

    Raises:
        DataError: the file cannot be read.
        SystemProblem: the copy cannot be written.
    """
    with reading(source):
        stream = source.open("rb")
    with stream, writing_aside(target) as copy:
        shutil.copyfileobj(stream, copy, _CHUNK_BYTES)
