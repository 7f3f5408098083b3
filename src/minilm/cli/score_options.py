"""What the score commands share: the option `--json`, and messages that name a file.

In: findings of the pure code. Out: warnings and errors that begin with the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from minilm.errors import DataError
from minilm.files.source import Source

logger = logging.getLogger(__name__)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


@contextmanager
def about(path: Source) -> Iterator[None]:
    """Name the file in an error from the pure code, which knows no files."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def warn(path: Source, *findings: str) -> None:
    """Log each finding that is not empty as a warning."""
    for finding in filter(None, findings):
        logger.warning("%s: %s", path, finding)
