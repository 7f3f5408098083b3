"""Whether the disks have room: what a run will write is added up by file system, not compared folder by folder.

In: folders, and the bytes that each will hold. Out: one error if all of them together do not fit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from minilm.distill.costs import shown_size
from minilm.errors import SystemProblem


def held_bytes(*folders: Path) -> int:
    """Bytes of the files that folders have already."""
    files = (path for folder in folders if folder.is_dir() for path in folder.rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file())


class Room:
    """Bytes that are spoken for, by file system."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._taken: dict[int, float] = {}

    def take(self, folder: Path, needed: float, *, held: int) -> None:
        """Count what `folder` will hold at most, of which it `held` some already, as taken."""
        device = _device(_existing(folder))
        self._taken[device] = self._taken.get(device, 0.0) + max(0.0, needed - held)

    def require(self, folder: Path, needed: float, *, held: int, what: str, ways_out: str) -> str:
        """Take it, if it fits beside what is taken already; return what is said of it.

        Args:
            folder: the folder.
            needed: bytes that it will hold at most.
            held: bytes of these that are there, and are replaced or kept.
            what: a sentence about it.
            ways_out: what to do if it does not fit.

        Raises:
            SystemProblem: it does not fit.
        """
        place = _existing(folder)
        taken, free = self._taken.get(_device(place), 0.0), shutil.disk_usage(place).free
        if taken + max(0.0, needed - held) > free:
            there = f" besides the {shown_size(held)} that {folder} holds" if held else ""
            others = f" and what else this run writes there needs {shown_size(taken)}" if taken else ""
            raise SystemProblem(f"{what}, but only {shown_size(free)} are free{there}{others}: {ways_out}")
        self.take(folder, needed, held=held)
        return f"{what}; {shown_size(free)} are free"


def _device(place: Path) -> int:
    """The file system of an existing folder."""
    return place.stat().st_dev


def _existing(path: Path) -> Path:
    """The folder itself, else the nearest above it that exists."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())
