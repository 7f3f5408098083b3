"""Where rows and texts are read from: a file, or standard input.

In: a path or `-` from the command line. Out: a `Source`; as text it is its name in messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

InputFormat = Literal["text", "jsonl", "csv", "tsv"]
STREAM = "-"
"""Stands for standard input or output on the command line; `./-` is a file."""


@dataclass(frozen=True)
class StandardInput:
    """Standard input, in one of the formats of files; it may be compressed by gzip."""

    format: InputFormat = "jsonl"

    def __str__(self) -> str:
        """Its name in messages."""
        return "standard input"

    @property
    def suffix(self) -> str:
        """The suffix of a file with this format."""
        return ".txt" if self.format == "text" else f".{self.format}"


Source = Path | StandardInput


def suffix_of(source: Source) -> str:
    """The suffix that says the format, in lower case; a final .gz does not count."""
    if isinstance(source, StandardInput):
        return source.suffix
    return Path(source.name.lower().removesuffix(".gz")).suffix
