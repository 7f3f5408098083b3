"""Why there are no kernels is said in one line with the way out; an old or broken library is never used."""

from __future__ import annotations

import _ctypes
import hashlib
from pathlib import Path

import pytest

from minilm.errors import UsageError
from minilm.kernels import library


@pytest.fixture
def fresh(monkeypatch):
    """Nothing set in the environment, and nothing found before."""
    for name in ("MINILM_KERNELS", "MINILM_KERNELS_LIBRARY"):
        monkeypatch.delenv(name, raising=False)
    find = library.find_library
    find.cache_clear()
    yield
    find.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_off_is_off(monkeypatch):
    monkeypatch.setenv("MINILM_KERNELS", "off")
    assert library.find_library() == library.Library(reason="MINILM_KERNELS=off is set")
    assert library.facts() == {"library": "none: MINILM_KERNELS=off is set"}


@pytest.mark.usefixtures("fresh")
def test_another_value_is_rejected(monkeypatch):
    monkeypatch.setenv("MINILM_KERNELS", "of")
    message = "the environment variable MINILM_KERNELS is 'of'; expected 'off', 'require' or nothing"
    with pytest.raises(UsageError) as caught:
        library.find_library()
    assert str(caught.value) == message
    assert library.facts() == {"library": f"none: {message}"}, "what minilm doctor shows"


@pytest.mark.usefixtures("fresh")
def test_a_named_library_is_the_one_that_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILM_KERNELS_LIBRARY", str(tmp_path / "mine.so"))
    assert library.find_library().reason == f"there is no {tmp_path / 'mine.so'}: run 'make kernels'"


def test_an_installation_without_sources_says_how_to_install_again(tmp_path):
    path = tmp_path / "a.so"
    again = "install a C++ compiler, then minilm again with pip install --force-reinstall --no-cache-dir"
    assert library.load(path, tmp_path).reason == f"there is no {path}: {again}"


def test_a_build_log_says_nothing_about_a_library_elsewhere(tmp_path):
    (tmp_path / "build.log").touch()
    path = tmp_path / "elsewhere" / "a.so"
    assert library.load(path, tmp_path).reason.startswith(f"there is no {path}: ")


@pytest.mark.usefixtures("fresh")
def test_doctor_shows_the_end_of_the_build_log(monkeypatch, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(40)))
    found = library.load(tmp_path / "a.so", tmp_path)
    assert found.log == log
    assert found.reason.startswith(f"they could not be built, see the end of {log}; to try again, install")
    monkeypatch.setattr(library, "find_library", lambda: found)
    shown = library.facts()
    assert shown["library"] == f"none: {found.reason}"
    assert shown["build log ends"] == "\n".join(f"line {number} \ufffd" for number in range(25, 40))


def test_a_file_that_is_no_library_is_a_reason_not_an_error(tmp_path):
    path = tmp_path / "a.so"
    path.write_bytes(b"no library")
    found = library.load(path, tmp_path)
    assert found.functions is None
    assert found.reason.startswith(f"{path} cannot be loaded: ")


def test_a_library_of_other_sources_is_not_used(tmp_path):
    """Also one that does not know its sources at all: any library of the system."""
    (tmp_path / "cpp").mkdir()
    path = Path(_ctypes.__file__)
    found = library.load(path, tmp_path)
    assert found.functions is None
    where = tmp_path / "cpp"
    assert found.reason == f"{path} is an old library, built from other sources than {where}: run 'make kernels'"


def test_the_hash_is_over_names_and_bytes_of_the_sources_alone(tmp_path):
    files = {"CMakeLists.txt": b"c", "b.hpp": b"b", "a.cpp": b"a\r\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a.cpp.orig").write_bytes(b"not a source")
    lines = "".join(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    assert library.source_hash(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
