"""Checkpoints: the full training state as files, saved atomically so that a kill never damages them.

In: weights, optimizer state, step, metrics not yet logged and the identity of the run.
Out: `checkpoints/step-00000500/` with `model.safetensors`, `optimizer.safetensors` and, written last,
`state.json` with their checksums and its own.

Saving and loading restores the state bit for bit. Random generators are not stored: each is derived from the seed,
its purpose, the step and the index within the step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from torch import Tensor

from minilm.errors import DataError, UsageError
from minilm.files.atomic import atomic_folder, make_folder
from minilm.files.json import read_json, with_nulls, write_json
from minilm.files.regular import sha256_file, sha256_text
from minilm.files.tensors import read_safetensors, write_safetensors
from minilm.train.best import Best
from minilm.train.metrics import restored

logger = logging.getLogger(__name__)

Identity = Mapping[str, object]

_NAME = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.step-\d{8,}\.(tmp|old)-\d+")
_FILES = ("model.safetensors", "optimizer.safetensors")
_LENGTH = "train.steps"  # the length of a run, as messages call it


class AnotherRunError(UsageError):
    """A folder contains the checkpoints or the result of a different run."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything a run needs to resume: `step` updates of `total_steps` are done, `bad_steps` of them were skipped.

    `recent` holds the metrics of the steps since the last logged line, `held_out` the last evaluation, and
    `extended_at` the steps after which a finished run was made longer.
    """

    step: int
    total_steps: int
    bad_steps: int
    identity: Identity
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    recent: Sequence[Mapping[str, float]] = ()
    held_out: Mapping[str, float] = field(default_factory=dict)
    best: Best = field(default_factory=Best)
    extended_at: Sequence[int] = ()


def save_checkpoint(folder: Path, state: TrainState, *, keep: int) -> Path:
    """Write `state` below `folder`; keep the newest `keep` checkpoints up to its step and remove later ones.

    A checkpoint at a later step is a damaged one that this run fell back from.

    Raises:
        SystemProblem: the disk is full or read-only; earlier checkpoints are unchanged.
    """
    target = folder / f"step-{state.step:08d}"
    make_folder(folder)
    with atomic_folder(target, replace=True) as aside:
        for name, tensors in zip(_FILES, (state.model, state.optimizer), strict=True):
            write_safetensors(aside / name, tensors)
        values: dict[str, object] = {
            "step": state.step,
            "total_steps": state.total_steps,
            "extended_at": list(state.extended_at),
            "bad_steps": state.bad_steps,
            "recent": [with_nulls(row) for row in state.recent],
            "held_out": with_nulls(state.held_out),
            "best": state.best.stored(),
            "identity": dict(state.identity),
            "sha256": {name: sha256_file(aside / name) for name in _FILES},
        }
        write_json(aside / "state.json", {**values, "sha256 of this": _checksum(values)})
    found = _folders(folder)
    kept = [path for path in found if _step(path) <= state.step][:keep]
    for old in found:
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return target


def load_newest(folder: Path, identity: Identity, *, total_steps: int) -> TrainState | None:
    """The newest complete checkpoint below `folder`, or None if there is none.

    A run that has finished may be continued with more `total_steps`.

    A damaged checkpoint is logged and the previous one is tried. Partial checkpoints of killed processes are removed.

    Raises:
        AnotherRunError: the checkpoint belongs to a different run, or to one that cannot have this number of steps; the
            message lists every difference.
    """
    _remove_leftovers(folder)
    candidates = _folders(folder)
    for candidate in candidates:
        try:
            values = _read_values(candidate)
            _require_continued(values, identity, total_steps, candidate)
            return _load(candidate, values)
        except DataError as error:
            logger.warning("checkpoint %s is damaged (%s); trying the previous one", candidate, error)
    if candidates:
        logger.warning("no checkpoint in %s is usable; starting from the first step", folder)
    return None


def require_run(folder: Path, identity: Identity, *, total_steps: int) -> None:
    """Check that the checkpoints in `folder` belong to this run, by the newest readable `state.json` only.

    Raises:
        AnotherRunError: as for `load_newest`.
    """
    newest = _newest_values(folder)
    if newest is not None:
        _require_continued(newest[1], identity, total_steps, newest[0])


def saved_run(folder: Path) -> tuple[Identity, int] | None:
    """The identity of the run with the checkpoints in `folder`, and its steps so far, as its newest state records."""
    newest = _newest_values(folder)
    return None if newest is None else (cast("Identity", newest[1]["identity"]), cast("int", newest[1]["step"]))


def is_finished(folder: Path, identity: Identity, *, total_steps: int) -> bool:
    """Whether the checkpoint in `folder` that this run would resume from is that of its last step."""
    newest = _newest_values(folder)
    if newest is None or cast("int", newest[1]["step"]) < total_steps:
        return False
    state = load_newest(folder, identity, total_steps=total_steps)
    return state is not None and state.step >= total_steps


def extensions(folder: Path) -> tuple[int, ...]:
    """The steps after which the run with the checkpoints in `folder` was made longer, as its newest state records."""
    newest = _newest_values(folder)
    return () if newest is None else tuple(cast("Sequence[int]", newest[1].get("extended_at", ())))


def _newest_values(folder: Path) -> tuple[Path, dict[str, object]] | None:
    """The newest checkpoint with a readable `state.json`, and its values; others are reported when they are loaded."""
    for candidate in _folders(folder):
        with contextlib.suppress(DataError):
            return candidate, _read_values(candidate)
    return None


def _require_continued(values: Mapping[str, object], identity: Identity, total_steps: int, where: Path) -> None:
    """Check that a run with this identity and length may continue from the state with these values."""
    if "total_steps" not in values:
        raise AnotherRunError(
            f"{where} was written by an earlier version of minilm; finish the run with that version, or choose another "
            "out folder"
        )
    saved, before = cast("Identity", values["identity"]), cast("int", values["total_steps"])
    if total_steps > before and saved == identity:
        if cast("int", values["step"]) < before:
            raise AnotherRunError(
                f"{where} belongs to a run of {before} steps that has not finished; train.steps is now {total_steps}, "
                f"but only a run that has done all of its steps is extended (train.patience may have ended it early). "
                f"Restore {before}, or choose another out folder"
            )
        return
    require_same({**saved, _LENGTH: before}, {**identity, _LENGTH: total_steps}, where)


def require_same(saved: Identity, current: Identity, where: Path) -> None:
    """Compare two identities.

    Raises:
        AnotherRunError: they differ; the message lists every difference, old and new.
    """
    keys = sorted(saved.keys() | current.keys())
    changed = [
        f"{key} was {_shown(saved, key)}, is {_shown(current, key)}"
        for key in keys
        if key not in saved or key not in current or saved[key] != current[key]
    ]
    if changed:
        raise AnotherRunError(
            f"{where} belongs to a different run: {'; '.join(changed)}. "
            f"Restore these values or choose another out folder"
        )


def _shown(identity: Identity, key: str) -> str:
    return repr(identity[key]) if key in identity else "not set"


def _checksum(values: Mapping[str, object]) -> str:
    return sha256_text(json.dumps(values, sort_keys=True))


def _read_values(folder: Path) -> dict[str, object]:
    """`state.json`, checked against its own checksum and the folder's name."""
    file = folder / "state.json"
    values = read_json(file)
    if values.pop("sha256 of this", None) != _checksum(values):
        raise DataError(f"{file}: the contents do not match the checksum")
    if values["step"] != _step(folder):
        raise DataError(f"{file}: step is {values['step']}; expected {_step(folder)}")
    return values


def _load(folder: Path, values: Mapping[str, object]) -> TrainState:
    sums = cast("Mapping[str, str]", values["sha256"])
    for name in _FILES:
        if sha256_file(folder / name) != sums.get(name):
            raise DataError(f"{folder / name}: the contents do not match the checksum in state.json")
    return TrainState(
        step=cast("int", values["step"]),
        total_steps=cast("int", values["total_steps"]),
        extended_at=tuple(cast("Sequence[int]", values["extended_at"])),
        bad_steps=cast("int", values["bad_steps"]),
        identity=cast("Identity", values["identity"]),
        model=read_safetensors(folder / "model.safetensors"),
        optimizer=read_safetensors(folder / "optimizer.safetensors"),
        recent=[restored(row) for row in cast("list[object]", values["recent"])],
        held_out=restored(values["held_out"]),
        best=Best.restore(cast("Mapping[str, float | None]", values["best"])),
    )


def _folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _remove_leftovers(folder: Path) -> None:
    """Remove partially written checkpoints, and old ones that were being replaced, of a killed process."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
