"""A disk error ends a run with one clear message; the run then resumes to bit-identical results."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.commands import fail_syncing

from minilm.distill import run as run_module
from minilm.distill.criterion import DistillBatch
from minilm.distill.objective import DistillObjective
from minilm.distill.run import distill
from minilm.errors import DataError, SystemProblem, UsageError
from minilm.files.tensors import read_safetensors
from minilm.recipe import load_recipe
from minilm.train import folder as folder_module
from minilm.train import metrics as metrics_module
from minilm.train.accumulate import Microbatches, PartLoss
from minilm.train.metrics import read_metrics

FULL = "the disk is full: free some space or choose another folder"


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Plotting is slow and not under test here."""
    monkeypatch.setattr("minilm.report.page.draw", lambda curves, **_: None)


def run(recipe: Path, *overrides: str):
    return distill(load_recipe(recipe, overrides))


def weights(out: Path) -> list[bytes]:
    newest = max((out / "checkpoints").iterdir())
    files = [newest / "model.safetensors", newest / "optimizer.safetensors", out / "model" / "model.safetensors"]
    return [file.read_bytes() for file in files]


def rows(out: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if name not in ("tokens_per_second", "seconds", "memory_gib")}
        for row in read_metrics(out)
    ]


def assert_resumes(tiny, recipe: Path) -> None:
    """Once there is space, the same command ends like an uninterrupted run."""
    out, uninterrupted = tiny.folder / "run", tiny.folder / "uninterrupted"
    run(recipe)
    run(recipe, f"out={uninterrupted}")
    assert weights(out) == weights(uninterrupted)
    assert rows(out) == rows(uninterrupted)
    assert [path for path in out.rglob(".*") if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_error_while_a_checkpoint_is_written_ends_the_run_with_one_line(tiny, monkeypatch, name, code):
    recipe = tiny.recipe(steps=3, checkpoint_every=1)
    with monkeypatch.context() as patch:
        fail_syncing(patch, code, "step-00000003", name)
        with pytest.raises(SystemProblem) as caught:
            run(recipe)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"cannot write {tiny.folder}/run/checkpoints/")
    kept = sorted(path.name for path in (tiny.folder / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000001", "step-00000002"]
    if (name, code) == ("state.json", errno.ENOSPC):
        assert_resumes(tiny, recipe)


def test_a_full_disk_while_metrics_are_written_ends_the_run_with_one_line(tiny, monkeypatch):
    """A row truncated by a full disk is not read as a row."""
    recipe = tiny.recipe(steps=6, log_every=1)
    original = os.fsync
    with monkeypatch.context() as patch:

        def half(handle: int) -> None:
            file = Path(os.readlink(f"/proc/self/fd/{handle}"))
            if file.name == "metrics.jsonl" and len(read_metrics(file.parent)) == 5:
                os.truncate(file, file.stat().st_size - 20)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(handle)

        patch.setattr(metrics_module.os, "fsync", half)
        with pytest.raises(SystemProblem) as caught:
            run(recipe)
    assert str(caught.value) == f"cannot write {tiny.folder}/run/metrics.jsonl: {FULL}"
    assert len(read_metrics(tiny.folder / "run")) == 4
    assert_resumes(tiny, recipe)


def test_losses_that_are_not_finite_end_the_run_and_leave_nothing_behind(tiny, monkeypatch):
    """As of a GPU with a fault: its batch is saved, and the steps after the last checkpoint are done again."""
    recipe = tiny.recipe(steps=6, max_bad_steps=1, log_every=1)
    original = DistillObjective.loss

    def broken(self: DistillObjective, batch: DistillBatch) -> PartLoss:
        found = original(self, batch)
        return replace(found, value=found.value * math.nan) if batch.position[0] >= 3 else found

    with monkeypatch.context() as patch:
        patch.setattr(DistillObjective, "loss", broken)
        with pytest.raises(DataError) as caught:
            run(recipe)
    saved = tiny.folder / "run" / "bad-batch-step-00000005.safetensors"
    assert str(caught.value) == (
        "step 5: 2 steps had a loss or gradient that is not finite (train.max_bad_steps is 1); the last batch is in "
        f"{saved}; lower train.learning_rate or check the data"
    )
    assert "0.token_ids" in read_safetensors(saved)
    assert_resumes(tiny, recipe)


@pytest.mark.parametrize("way_out", ["restored", "removed"])
def test_a_damaged_shard_stops_the_run_until_it_is_whole(tiny, monkeypatch, way_out):
    """Found when the run is resumed; the corpus is built again if its folder is gone, with the same bytes."""
    recipe = tiny.recipe(steps=6)
    original = DistillObjective.batch

    def stopped(self: DistillObjective, step: int) -> Microbatches[DistillBatch]:
        if step == 4:
            raise KeyboardInterrupt
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(DistillObjective, "batch", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(recipe)
    shard = tiny.folder / "run" / "corpus" / "shards" / "shard-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError) as caught:
        run(recipe)
    assert str(caught.value) == (
        f"{shard}: the contents do not match the checksum in manifest.json; rebuild the corpus: remove its folder, "
        "then repeat 'minilm corpus build', or the run that built it"
    )
    if way_out == "restored":
        shard.write_bytes(whole)
    else:
        shutil.rmtree(shard.parents[1])
    assert_resumes(tiny, recipe)
    assert shard.read_bytes() == whole


@pytest.mark.parametrize("name", ["report.html", "env.json", "recipe.resolved.yaml", "model/", "corpus/"])
def test_a_full_disk_while_other_files_are_written_ends_the_run_with_one_line(tiny, monkeypatch, name):
    recipe = tiny.recipe(steps=3)
    with monkeypatch.context() as patch:
        wanted = {"model/": "run/.model.tmp", "corpus/": "run/.corpus.tmp"}.get(name, f".{name}.tmp")
        fail_syncing(patch, errno.ENOSPC, wanted)
        with pytest.raises(SystemProblem) as caught:
            run(recipe)
    assert str(caught.value).startswith(f"cannot write {tiny.folder}/run/")
    assert str(caught.value).endswith(FULL)
    if name != "env.json":
        assert_resumes(tiny, recipe)


def test_a_full_disk_while_the_log_is_written_ends_the_run_with_one_line(tiny, monkeypatch, capsys):
    """By default, logging would print a traceback and continue."""

    class FullStream:
        def write(self, text: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            self.flush()

    def full(file, path, **_):
        handler = next(one for one in handlers if one.stream is file)
        handler.setStream(FullStream())

    handlers: list[logging.FileHandler] = []
    opened = logging.FileHandler.__init__
    monkeypatch.setattr(
        logging.FileHandler, "__init__", lambda self, *a, **k: (opened(self, *a, **k), handlers.append(self))[0]
    )
    monkeypatch.setattr(folder_module, "lock_file", full)
    with pytest.raises(SystemProblem) as caught:
        run(tiny.recipe(steps=3))
    assert str(caught.value) == f"cannot write {tiny.folder}/run/log.txt: {FULL}"
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def command(forked) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """`command(code)`: the outcome of a process that runs it."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return lambda code: subprocess.run(
        [forked / "python", "-c", code], capture_output=True, text=True, env=env, timeout=120, check=False
    )


def errors_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]


def test_a_limit_on_file_sizes_ends_the_command_with_4_and_one_line(tiny, command):
    """The kernel rejects the write: the optimizer's state is the largest file of a checkpoint."""
    recipe = tiny.recipe(steps=6)
    done = command(
        "import resource\nfrom minilm.cli.app import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))\n"
        f"main(['distill', {str(recipe)!r}])\n"
    )
    folder = tiny.folder / "run" / "checkpoints"
    assert done.returncode == 4
    [line] = errors_of(done)
    assert line.startswith(f"error: cannot write {folder}/step-00000003/optimizer.safetensors: the file is larger")
    assert line.endswith("raise 'ulimit -f' or choose another disk")
    assert list(folder.iterdir()) == []
    assert_resumes(tiny, recipe)


def test_a_read_only_run_folder_ends_the_command_with_4_and_one_line(tiny, command):
    recipe = tiny.recipe(steps=3)
    out = tiny.folder / "run"
    out.mkdir(mode=0o555)
    done = command(  # without CAP_DAC_OVERRIDE even root may not write where it has no permission
        "import ctypes, os, sys\n"
        "if os.geteuid() == 0 and ctypes.CDLL(None).prctl(24, 1, 0, 0, 0): sys.exit(77)\n"
        f"os.execv(sys.executable, [sys.executable, '-m', 'minilm.cli.app', 'distill', {str(recipe)!r}])\n"
    )
    if done.returncode == 77:
        pytest.skip("root here cannot give up the right to write everywhere")
    assert done.returncode == 4, done.stderr
    assert errors_of(done) == [
        f"error: cannot write {out}/recipe.resolved.yaml: permission denied: "
        "choose another folder or change its permissions"
    ]


def test_two_runs_in_one_folder_are_rejected(tiny, monkeypatch):
    recipe = tiny.recipe(steps=3)

    def second(*_, **__):
        with pytest.raises(UsageError) as caught:
            run(recipe)
        assert str(caught.value) == (
            f"another process is running in {tiny.folder}/run; wait for it, or choose another out folder"
        )
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load_teacher_for", second)
        with pytest.raises(KeyboardInterrupt):
            run(recipe)
    run(recipe)


@pytest.mark.parametrize("name", ["model", "corpus", "checkpoints"])
def test_a_folder_of_the_user_is_never_replaced(tiny, name):
    mine = tiny.folder / "run" / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UsageError) as caught:
        run(tiny.recipe(steps=3))
    assert str(caught.value) == (
        f"{tiny.folder}/run contains {name} but no recipe.resolved.yaml, so it is not a run folder; "
        "choose another out folder"
    )
    assert mine.read_text() == "mine"


def test_a_file_given_as_out_is_one_clear_error(tiny):
    (tiny.folder / "run").write_text("mine")
    with pytest.raises(UsageError, match="run is not a folder; choose another out folder"):
        run(tiny.recipe(steps=3))


def test_a_bug_leaves_its_traceback_in_the_log(tiny, monkeypatch):
    monkeypatch.setattr(run_module, "load_teacher_for", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tiny.recipe(steps=3))
    log = (tiny.folder / "run" / "log.txt").read_text()
    assert "ended by ZeroDivisionError: division by zero\nTraceback" in log
