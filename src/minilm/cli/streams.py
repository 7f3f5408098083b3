"""Standard streams: as the input or output of a command, and those that a service, cron or the shell has closed.

In: the streams that Python found when it started; `-` on the command line. Out: streams that can be used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from minilm.errors import UsageError
from minilm.files.row_writer import Write, json_lines, require_suffix, writing_rows
from minilm.files.source import STREAM, InputFormat, Source, StandardInput

InputFormatOption = Annotated[
    InputFormat | None,
    typer.Option("--input-format", help="Format of - (standard input).", show_default="jsonl"),
]


def replace_closed_streams() -> None:
    """Open the null device in place of each closed standard stream.

    Python has None for such a stream, which ends a print in a traceback. Its number would go to the next file that is
    opened, and what a library then writes to standard error would end up in that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # its number is the lowest free one, which `open` takes
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it stays open


def source_of(option: str, value: str, input_format: InputFormat | None) -> Source:
    """The file that `value` names, or standard input if it is `-`.

    Raises:
        UsageError: standard input is closed, or `input_format` is given for a file.
    """
    if value != STREAM:
        if input_format is not None:
            raise UsageError(
                f"--input-format {input_format} is for standard input, -; {value} has the format of its name: remove it"
            )
        return Path(value)
    _require_open(option, sys.stdin)
    return StandardInput(input_format or StandardInput.format)


def sources_of(named: Sequence[tuple[str, str]], input_format: InputFormat | None) -> list[Source]:
    """The files that options name, of which one may be standard input.

    Args:
        named: (option, value) of each.
        input_format: of standard input.

    Raises:
        UsageError: as for `source_of`, or standard input is named twice.
    """
    streams = [option for option, value in named if value == STREAM]
    if len(streams) > 1:
        raise UsageError(f"{' and '.join(streams)} are both -, but standard input can be read only once; name a file")
    return [source_of(option, value, None if streams and value != STREAM else input_format) for option, value in named]


def reject_columns(source: Source, given: Mapping[str, str | None]) -> None:
    """Raise UsageError if an option names a column of `source`, which has lines without names; `given` is by option."""
    for option, column in given.items():
        if column is not None:
            raise UsageError(f"{option} {column}: {source} has no named columns; remove {option}")


def output_file(value: str, suffixes: Sequence[str]) -> Path | None:
    """The file that `--output` names, or None if it is `-`, standard output.

    Raises:
        UsageError: standard output is closed, the name ends in none of the suffixes, or it is that of a folder.
    """
    if value == STREAM:
        _require_open("--output", sys.stdout)
        return None
    require_suffix(Path(value), suffixes, option="--output")
    return Path(value)


def reject_same_file(source: Source, output: Path | None) -> None:
    """Raise UsageError if a command would write over its input; `output` is None for standard output."""
    if isinstance(source, Path) and output is not None and source.resolve() == output.resolve():
        raise UsageError(f"--input and --output are the same file, {source}; use different files")


def require_parent(option: str, path: Path) -> None:
    """Raise UsageError if the folder of a file to write does not exist."""
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {path.parent} does not exist: create it first")


def writing_output(output: Path | None) -> AbstractContextManager[Write]:
    """Yield a function that writes rows to a file, or as JSON lines to standard output if there is none."""
    return json_lines(sys.stdout.buffer) if output is None else writing_rows(output)


def _require_open(option: str, stream: TextIO) -> None:
    if _was_closed(stream):
        raise UsageError(f"{option} is -, but that stream is closed; name a file or open it")


def _was_closed(stream: TextIO) -> bool:
    """Whether this standard stream is only a replacement; one that the shell connects to the null device is not."""
    return getattr(stream, "name", None) == os.devnull
