"""Whatever happens while a teacher's relations are stored or read ends with one line, and then with the same bits."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.commands import fail_syncing

from minilm.corpus.build import build_shards
from minilm.distill import cache_filling
from minilm.distill.criterion import DistillBatch
from minilm.distill.objective import DistillObjective
from minilm.distill.run import distill
from minilm.errors import DataError, SystemProblem
from minilm.files.json import read_json, write_json
from minilm.files.tensors import read_pieces, stored_arrays
from minilm.recipe import load_recipe
from minilm.train.accumulate import Microbatches

PART_BYTES = 100_000  # about ten files for the tiny corpus
COMMAND = """
import os
from minilm.cli.app import main
from minilm.distill import cache_filling
cache_filling.PART_BYTES = {size}
original = os.replace
def dying(source, target):
    if target.name == {name!r}:
        os._exit(137)  # at once, as by SIGKILL
    original(source, target)
os.replace = dying
main(['distill', {recipe!r}, '--set', 'out={out}', '--set', 'cache.folder={out}.teacher'])
"""


@pytest.fixture
def recipe(tiny, monkeypatch) -> Path:
    """A run of three steps with a cache beside a corpus."""
    monkeypatch.setattr(cache_filling, "PART_BYTES", PART_BYTES)
    build_shards([tiny.text], tokenizer=tiny.teacher, out=tiny.folder / "shards", max_tokens=32)
    path = tiny.recipe(steps=3)
    values = json.loads(path.read_text())
    values["data"].update(corpus=str(tiny.folder / "shards"), inputs=[])
    values["cache"] = {"precision": "int8"}
    path.write_text(json.dumps(values))
    return path


def run(recipe: Path, *overrides: str):
    return distill(load_recipe(recipe, overrides))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_ends_as_unbroken(tiny, recipe: Path) -> None:
    """The same command ends like one that was never stopped, in the cache and in the model."""
    run(recipe)
    root, unbroken = tiny.folder / "shards.teacher", tiny.folder / "unbroken"
    run(recipe, f"out={unbroken}", f"cache.folder={unbroken}.teacher")
    assert bytes_of(root) == bytes_of(tiny.folder / "unbroken.teacher")
    models = [folder / "model" / "model.safetensors" for folder in (tiny.folder / "run", unbroken)]
    assert models[0].read_bytes() == models[1].read_bytes()


@pytest.mark.parametrize("name", ["part-00002.safetensors", "manifest.json"])
def test_a_full_disk_while_the_cache_is_filled(tiny, recipe, monkeypatch, name):
    """What was finished stays, and is not computed again."""
    with monkeypatch.context() as patch:
        fail_syncing(patch, errno.ENOSPC, "shards.teacher", name)
        with pytest.raises(SystemProblem) as caught:
            run(recipe)
    [folder] = (tiny.folder / "shards.teacher").iterdir()
    assert str(caught.value) == (
        f"cannot write {folder}/{name}: the disk is full: free some space or choose another folder"
    )
    finished = {"part-00002.safetensors": [0, 1], "manifest.json": [0]}[name]
    assert sorted(folder.glob("part-*")) == [folder / f"part-{number:05d}.safetensors" for number in finished]
    assert not list(folder.glob(".*"))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert_ends_as_unbroken(tiny, recipe)
    if name != "manifest.json":
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_kill_while_the_cache_is_filled_changes_no_bit(tiny, recipe, forked):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def start(out: Path, *, dies_at: str = "") -> int:
        code = COMMAND.format(size=PART_BYTES, name=dies_at, recipe=str(recipe), out=out)
        command = [forked / "python", "-c", code]
        return subprocess.run(command, capture_output=True, env=env, timeout=120, check=False).returncode

    out, unbroken = tiny.folder / "killed", tiny.folder / "unbroken"
    assert start(out, dies_at="part-00003.safetensors") == 137
    [manifest] = (tiny.folder / "killed.teacher").glob("*/manifest.json")
    assert len(read_json(manifest)["parts"]) == 3
    assert list(manifest.parent.glob(".part-00003*")), "a file that is not whole"
    assert start(out) == start(unbroken) == 0
    assert "resuming: " in (out / "log.txt").read_text()
    assert bytes_of(tiny.folder / "killed.teacher") == bytes_of(tiny.folder / "unbroken.teacher")
    models = [folder / "model" / "model.safetensors" for folder in (out, unbroken)]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_damaged_cache_names_the_file_and_the_way_out(tiny, recipe, monkeypatch):
    """Found when a run that was stopped is resumed; once the cache is filled again, it ends with the same bits."""
    original = DistillObjective.batch

    def stopped(self: DistillObjective, step: int) -> Microbatches[DistillBatch]:
        if step == 2:
            raise KeyboardInterrupt
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(DistillObjective, "batch", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, "train.checkpoint_every=1")
    [folder] = (tiny.folder / "shards.teacher").iterdir()
    remedy = f"remove the folder {folder}, the run fills it again"
    file, manifest = folder / "part-00001.safetensors", folder / "manifest.json"
    whole, listed = file.read_bytes(), read_json(manifest)

    def problem() -> str:
        with pytest.raises(DataError) as caught:
            run(recipe)
        return str(caught.value)

    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert problem() == f"{file}: the contents do not match the checksum in manifest.json; {remedy}"
    file.unlink()
    assert problem() == f"{file}: missing, but listed in manifest.json; {remedy}"
    file.write_bytes(whole)
    fit = f"{manifest}: found the relations of another teacher or corpus, expected those of this run; {remedy}"
    for change in ({"parts": listed["parts"][:-1]}, {"heads": [6, 6]}, {"key": {**listed["key"], "layer": 2}}):
        write_json(manifest, {**listed, **change})
        assert problem() == fit
    write_json(manifest, {**listed, "part_tokens": "many"})
    assert problem() == f"{manifest}: part_tokens is 'many'; expected a whole number; {remedy}"
    manifest.write_text("{")
    assert re.fullmatch(rf"{manifest}:1: broken JSON, .*; {remedy}", problem())
    shutil.rmtree(folder)
    assert_ends_as_unbroken(tiny, recipe)
    assert "at step 2 of 3" in (tiny.folder / "run" / "log.txt").read_text()


def test_a_file_that_shrinks_while_it_is_read_is_one_line(tiny, recipe):
    run(recipe)
    file = next((tiny.folder / "shards.teacher").rglob("part-00000*"))
    place = stored_arrays(file)["rows"]
    into = np.zeros(place.shape, dtype=np.int8)
    read_pieces(file, [(place.start, into)])
    assert into.any()
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=re.escape(f"{file} ends before byte ")):
        read_pieces(file, [(place.start, into)])
