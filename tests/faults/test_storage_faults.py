"""A failed or killed write leaves the old file, no leftovers, and one clear message."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from minilm.errors import SystemProblem, UsageError
from minilm.files import atomic
from minilm.files.atomic import atomic_folder, atomic_write, require_writable
from minilm.files.json import write_json
from minilm.files.tensors import write_arrays, write_safetensors
from minilm.text.tokenizer import Tokenizer

BIG = b"x" * 2_000_000


def writers() -> dict[str, Callable[[Path], None]]:
    def folder(path: Path) -> None:
        with atomic_folder(path.with_name("folder")) as aside:
            (aside / "part").write_bytes(BIG)

    return {
        "atomic_write": lambda path: atomic_write(path, BIG),
        "write_json": lambda path: write_json(path, {"a": "x" * len(BIG)}),
        "write_arrays": lambda path: write_arrays(path, {"a": np.zeros(len(BIG), dtype=np.uint8)}),
        "write_safetensors": lambda path: write_safetensors(path, {"a": torch.zeros(len(BIG))}),
        "atomic_folder": folder,
    }


WRITERS = pytest.mark.parametrize("name", writers())


def python(code: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], text=True, env=env, **pipes)  # type: ignore[call-overload]


def test_a_file_size_limit_is_a_clear_error(tmp_path: Path) -> None:
    for name in writers():
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("old")
    process = python(
        "import resource, test_storage_faults as t; from pathlib import Path\n"
        "from minilm.errors import SystemProblem\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "for name, write in t.writers().items():\n"
        f"    try: write(Path({str(tmp_path)!r}, name, 'f'))\n"
        "    except SystemProblem as error: print(error)\n"
    )
    out, err = process.communicate(timeout=120)
    targets = [tmp_path / name / ("folder" if name == "atomic_folder" else "f") for name in writers()]
    assert out.splitlines() == [
        f"cannot write {target}: the file is larger than this process may write: "
        "raise 'ulimit -f' or choose another disk"
        for target in targets
    ], err
    for name in writers():
        assert (tmp_path / name / "f").read_text() == "old"
        assert os.listdir(tmp_path / name) == ["f"]


@WRITERS
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full: free some space or choose another folder"),
        (errno.EROFS, "the disk is read-only: choose another folder"),
        (errno.EDQUOT, "the disk quota is used up: free some space or choose another folder"),
    ],
)
def test_a_failing_disk_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, message: str
) -> None:
    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "f"
    path.write_text("old")
    monkeypatch.setattr(atomic.os, "fsync", fail)
    target = "folder" if name == "atomic_folder" else "f"
    with pytest.raises(SystemProblem) as caught:
        writers()[name](path)
    assert str(caught.value) == f"cannot write {tmp_path / target}: {message}"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I/O error: No space left on device (os error 28)", "the disk is full: free some space"),
        ("I/O error: Read-only file system (os error 30)", "the disk is read-only: choose another folder"),
        ("no reason known", "no reason known: check the disk and try again"),
    ],
)
def test_disk_errors_from_the_tensor_library_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SafetensorError(text)

    path = tmp_path / "f"
    path.write_text("old")
    monkeypatch.setattr("safetensors.torch.serialize_file", fail)
    with pytest.raises(SystemProblem, match=f"cannot write {path}: {message}"):
        write_safetensors(path, {"a": torch.zeros(3)})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("name", ["write_arrays", "write_safetensors"])
def test_tensor_files_are_synced_and_readable_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    synced = set()
    monkeypatch.setattr(atomic.os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    writers()[name](tmp_path / "f")
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "f").stat().st_ino in synced
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@WRITERS
def test_a_protected_folder_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(SystemProblem, match="permission denied: choose another folder or change its permissions"):
        writers()[name](tmp_path / "f")
    assert os.listdir(tmp_path) == []


@WRITERS
def test_a_path_below_a_file_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(SystemProblem, match=r"cannot write .*: a part of the path is a file|File exists"):
        writers()[name](tmp_path / "file" / "f")
    assert os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_written_is_found_before_long_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the nearest folder that exists: below a file, in a protected folder, on a read-only disk."""
    (tmp_path / "file").touch()
    require_writable(tmp_path / "new" / "folder" / "f")
    assert not (tmp_path / "new").exists()
    with pytest.raises(SystemProblem, match=r"cannot write .*/file/f: a part of the path is a file, not a folder"):
        require_writable(tmp_path / "file" / "f")
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)
    with pytest.raises(SystemProblem, match=r"cannot write .*/new/f: permission denied: choose another folder"):
        require_writable(tmp_path / "new" / "f")
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(SystemProblem, match=r"cannot write .*/new/f: the disk is read-only"):
        require_writable(tmp_path / "new" / "f")


def test_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/stdout")):
        for write in (require_writable, lambda path: atomic_write(path, "x")):
            with pytest.raises(UsageError, match=f"{path} is a device or a pipe, which a file would replace: choose"):
                write(path)
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_missing_folder_and_a_folder_in_the_way_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemProblem, match=r"none/f: the folder does not exist: create it first$"):
        atomic_write(tmp_path / "none" / "f", "x")
    (tmp_path / "d").mkdir()
    with pytest.raises(SystemProblem, match=r"/d: a folder with that name is in the way: choose another path$"):
        atomic_write(tmp_path / "d", "x")
    with pytest.raises(SystemProblem, match=r"the name is too long: choose a shorter one$"):
        atomic_write(tmp_path / ("n" * 250), "x")
    assert os.listdir(tmp_path) == ["d"]


def test_saving_a_tokenizer_reports_errors_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(SystemProblem, match=r"cannot write .*vocab\.txt"):
        Tokenizer.load(tmp_path).save(tmp_path / "vocab.txt" / "folder")


def test_other_errors_inside_a_folder_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out"):
        Path(tmp_path / "input").read_text()
    with (
        pytest.raises(SystemProblem, match=r"cannot write .*out: the disk is full"),
        atomic_folder(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_failed_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").touch()
    rename = os.rename

    def fail_on_publish(source: Path, target: Path) -> None:
        if ".tmp-" in Path(source).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(atomic, "os", SimpleNamespace(**{**vars(os), "rename": fail_on_publish}))
    with pytest.raises(SystemProblem, match="the disk is full"), atomic_folder(path, replace=True):
        pass
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(path) == ["old"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_in_the_middle_leaves_the_old_one_and_is_cleaned_up_later(tmp_path: Path, kind: str) -> None:
    atomic_write(tmp_path / "f", "old")
    with atomic_folder(tmp_path / "d") as aside:
        (aside / "old").touch()
    body = {
        "file": f"with writing_aside(Path({str(tmp_path / 'f')!r})) as f:\n    f.write(b'half'); f.flush()",
        "folder": f"with atomic_folder(Path({str(tmp_path / 'd')!r}), replace=True) as d:\n    (d / 'h').touch()",
    }[kind]
    process = python(
        "import time; from pathlib import Path; from minilm.files.atomic import writing_aside, atomic_folder\n"
        f"{body}\n    print('ready', flush=True); time.sleep(60)\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path / "d") == ["old"]
    assert len(os.listdir(tmp_path)) == 3  # the leftover
    atomic_write(tmp_path / "f", "new")
    with atomic_folder(tmp_path / "d", replace=True) as aside:
        (aside / "new").touch()
    assert sorted(os.listdir(tmp_path)) == ["d", "f"]


def test_random_kills_never_expose_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic_write(path, b"0" * 300_000)
    for delay in (0.0, 0.004, 0.011, 0.023):
        process = python(
            "from pathlib import Path; from minilm.files.atomic import atomic_write\nprint('ready', flush=True)\n"
            f"for i in range(10**6): atomic_write(Path({str(path)!r}), str(i % 10).encode() * 300_000)\n"
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=300)
        content = path.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1
    atomic_write(path, "end")
    assert os.listdir(tmp_path) == ["f"]
