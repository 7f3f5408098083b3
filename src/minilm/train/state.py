"""Checkpoints: the whole training state as files, saved so that a kill at any moment loses nothing.

In: weights, optimizer state, step and the identity of the run. Out: `checkpoints/step-00000500/` holding
`model.safetensors`, `optimizer.safetensors` and, written last, `state.json` with their checksums.

Saving and loading is the identity, bit for bit. Random numbers are not stored: every generator is derived
from (seed, purpose, step).
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from minilm import storage
from minilm.errors import DataError, UsageError

logger = logging.getLogger(__name__)

Identity = Mapping[str, object]

_NAME = re.compile(r"step-(\d{8})")
_FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything a run needs to go on: `step` updates are done, `bad_steps` of them were skipped."""

    step: int
    bad_steps: int
    identity: Identity
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def save_checkpoint(folder: Path, state: TrainState, *, keep: int) -> Path:
    """Write `state` below `folder` and remove all but the newest `keep` checkpoints.

    Raises:
        SystemProblem: disk full or read-only; earlier checkpoints are untouched.
    """
    target = folder / f"step-{state.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    with storage.atomic_folder(target, replace=True) as aside:
        for name, tensors in zip(_FILES, (state.model, state.optimizer), strict=True):
            storage.write_safetensors(aside / name, tensors)
        storage.write_json(
            aside / "state.json",
            {
                "step": state.step,
                "bad_steps": state.bad_steps,
                "identity": dict(state.identity),
                "sha256": {name: storage.sha256_file(aside / name) for name in _FILES},
            },
        )
    for old in _folders(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_newest(folder: Path, identity: Identity) -> TrainState | None:
    """The newest complete checkpoint below `folder`, or None when there is none.

    A damaged one is reported and the one before it is taken.

    Raises:
        UsageError: the checkpoint belongs to another run; every difference is named.
    """
    for candidate in _folders(folder):
        try:
            state = _load(candidate)
        except DataError as error:
            logger.warning("checkpoint %s is damaged (%s); going back to the one before it", candidate, error)
            continue
        _require_same(state.identity, identity, candidate)
        return state
    return None


def _load(folder: Path) -> TrainState:
    values = storage.read_json(folder / "state.json")
    sums = cast("Mapping[str, str]", values["sha256"])
    for name in _FILES:
        if storage.sha256_file(folder / name) != sums.get(name):
            raise DataError(f"{folder / name}: contents do not match state.json")
    return TrainState(
        step=int(cast("int", values["step"])),
        bad_steps=int(cast("int", values["bad_steps"])),
        identity=cast("Identity", values["identity"]),
        model=storage.read_safetensors(folder / "model.safetensors"),
        optimizer=storage.read_safetensors(folder / "optimizer.safetensors"),
    )


def _folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _require_same(saved: Identity, current: Identity, where: Path) -> None:
    keys = sorted(saved.keys() | current.keys())
    changed = [
        f"{key} was {saved.get(key)!r}, is {current.get(key)!r}" for key in keys if saved.get(key) != current.get(key)
    ]
    if changed:
        raise UsageError(
            f"{where} belongs to another run: {'; '.join(changed)}. "
            f"Restore these, choose another out folder, or start afresh with --resume never"
        )
