"""The lines of `metrics.jsonl` once more as event files, for TensorBoard; an option.

In: the rows that a run logs. Out: `tensorboard/` in the run folder, one scalar for each number; dots in names become
slashes, so that TensorBoard groups them by student.

A start writes a separate file. What an earlier one wrote after the checkpoint is marked as replaced, and TensorBoard
does not show it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from minilm.errors import SystemProblem
from minilm.files.atomic import reporting_writes

FOLDER = "tensorboard"


class MetricsWriter(Protocol):
    """Takes the rows of a run."""

    def __call__(self, row: Mapping[str, float]) -> None:
        """Write the row of a step; raises SystemProblem if that fails."""


def require_tensorboard(*, wanted: bool) -> None:
    """Require the package, if a recipe wants it, before anything is computed; raises SystemProblem."""
    if wanted and find_spec("tensorboard") is None:
        raise SystemProblem(
            "train.tensorboard is true, but TensorBoard is not installed; install it with: "
            "pip install 'minilm[tensorboard]', or set train.tensorboard to false"
        )


@contextlib.contextmanager
def event_writer(folder: Path | None, *, done: int) -> Iterator[MetricsWriter]:
    """Write event files into `folder` for the duration of the block; None writes nothing.

    Args:
        folder: the run folder.
        done: the updates made; events after them are replaced.

    Raises:
        SystemProblem: a file cannot be written.
    """
    if folder is None:
        yield _nothing
        return
    from torch.utils.tensorboard import SummaryWriter

    target = folder / FOLDER
    with reporting_writes(target):
        writer = SummaryWriter(str(target), purge_step=done + 1)

    def write(row: Mapping[str, float]) -> None:
        with reporting_writes(target):
            for name, value in row.items():
                if name != "step":
                    writer.add_scalar(name.replace(".", "/"), value, int(row["step"]))
            writer.flush()

    try:
        yield write
    finally:
        with contextlib.suppress(OSError):  # of a full disk, which has been reported
            writer.close()


def _nothing(row: Mapping[str, float]) -> None:
    """Write nothing."""
