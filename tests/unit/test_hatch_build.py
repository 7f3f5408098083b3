"""Proves that programs that hang while the kernels are built leave a pure installation, not a traceback.

Builds themselves are tested in `tests/install`.
"""

from __future__ import annotations

import importlib.util
import stat
import sysconfig
from pathlib import Path

import pytest

HANGS = "#!/bin/sh\necho begins\nexec sleep 20\n"


@pytest.fixture
def hook(repo_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """The module, which does not wait for long."""
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", repo_dir / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.subprocess.run
    monkeypatch.setattr(module.subprocess, "run", lambda *args, **named: run(*args, **{**named, "timeout": 0.5}))
    monkeypatch.delenv("MINILM_KERNELS", raising=False)
    return module


def script(path: Path, text: str) -> Path:
    """A program."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_build_that_hangs_leaves_its_log(hook, tmp_path, monkeypatch, capsys):
    cmake = script(tmp_path / "cmake", HANGS)
    monkeypatch.setattr(hook, "program", lambda name: str(cmake) if name == "cmake" else None)
    assert hook.build_or_log(tmp_path / "build", tmp_path / "build.log") == tmp_path / "build.log"
    log = (tmp_path / "build.log").read_text()
    assert log.startswith(f"$ {cmake} -S ")
    assert log.endswith("begins\n\nit was stopped: it ran for 3600 seconds\n")
    assert "minilm works without its kernels" in capsys.readouterr().err
    monkeypatch.setenv("MINILM_KERNELS", "require")
    with pytest.raises(hook.BuildFailed, match="MINILM_KERNELS=require is set"):
        hook.build_or_log(tmp_path / "build", tmp_path / "build.log")


def test_a_program_that_hangs_is_not_used(hook, tmp_path, monkeypatch):
    """Beside this Python; the one on the path is."""
    beside, path = tmp_path / "beside", tmp_path / "path"
    for folder, text in ((beside, HANGS), (path, "#!/bin/sh\n")):
        folder.mkdir()
        script(folder / "cmake", text)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(beside))
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    assert hook.program("cmake") == str(path / "cmake")
