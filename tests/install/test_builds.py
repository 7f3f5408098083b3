"""Wheels with and without what compiles the kernels: all can be used, and none lacks them in silence.

pip builds a copy of this checkout offline, with a path that lacks a program or with a source that does not compile.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
LIBRARY = "minilm/kernels/libminilm_kernels.so"
PACKAGES = sysconfig.get_path("purelib")
QUICKLY = "-DCMAKE_BUILD_TYPE=None -DMINILM_X86_64=OFF"  # the scalar unit alone, not optimised
COMPILERS = r"(.*-)?(cc|c89|c99|c\+\+|g\+\+|gcc|clang|clang\+\+)(-[\d.]+)?"
CMAKE = r"cmake\d*"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif("MINILM_TEST_BUILDS" not in os.environ, reason="builds packages: run by make test-install"),
]


def run(*command: object, fails: bool = False, cwd: Path | None = None, **env: str) -> str:
    """What a command prints, if it ends as expected."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MINILM_KERNELS", "CMAKE_ARGS", "CXX")}
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        env={**clean, "PYTHONPATH": PACKAGES, "CMAKE_ARGS": QUICKLY, **env},
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without programs beside it; it has this one's packages, for their programs are on no path."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    return folder / "bin" / "python"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what is built, with a library of an earlier build that must not be shipped."""
    folder = tmp_path / "project"
    skipped = shutil.ignore_patterns("__pycache__", "*.so", "build.log")
    for name in ("src", "recipes"):
        shutil.copytree(REPO / name, folder / name, ignore=skipped)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore", "requirements.lock"):
        shutil.copy(REPO / name, folder)
    (folder / "src" / LIBRARY).write_text("old")
    return folder


def path_without(pattern: str, folder: Path) -> str:
    """A path with links to all programs whose name does not match."""
    folder.mkdir()
    for place in os.get_exec_path():
        for program in Path(place).glob("*"):
            if not re.fullmatch(pattern, program.name) and not os.path.lexists(folder / program.name):
                (folder / program.name).symlink_to(program)
    return str(folder)


def wheel(python: Path, source: Path, **env: str) -> tuple[Path, str]:
    """Let pip build a wheel; return it and what was printed."""
    out = source.parent / "wheels"
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check", "-v", "-w", out)
    said = run(python, "-m", "pip", "wheel", *options, source, **env)
    (built,) = out.glob("*.whl")
    return built, said


def doctor(python: Path, built: Path) -> dict[str, object]:
    """Install a wheel, list its recipes, and return what `minilm doctor` says about the kernels."""
    site = built.parent / "site"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target", site, built)
    both = f"{site}{os.pathsep}{PACKAGES}"
    listed = run(python, "-m", "minilm.cli.app", "recipes", "list", cwd=site, PYTHONPATH=both)
    assert listed.count("\n") >= len(list((REPO / "recipes").rglob("*.yaml")))
    shown = run(python, "-m", "minilm.cli.app", "doctor", "--json", cwd=site, PYTHONPATH=both)
    return json.loads(shown[shown.index("{") :])["kernels"]


def require(*programs: str) -> None:
    """Skip where nothing compiles."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


def test_an_sdist_builds_a_wheel_for_all_pythons_of_this_platform(python, project):
    require("cmake", "c++")
    run(python, "-m", "hatchling", "build", "-t", "sdist", "-d", project / "dist", cwd=project)
    (sdist,) = (project / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        packed = {name.partition("/")[2] for name in files.getnames()}
    sources = {path.relative_to(REPO).as_posix() for path in (REPO / "src/minilm/kernels/cpp").iterdir()}
    assert packed > {*sources, "hatch_build.py"}
    assert f"src/{LIBRARY}" not in packed
    built, _ = wheel(python, sdist, MINILM_KERNELS="require")
    assert built.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    names = zipfile.ZipFile(built).namelist()
    assert [name for name in names if name.startswith("minilm/kernels/")] == [
        "minilm/kernels/__init__.py",
        "minilm/kernels/encoder.py",
        "minilm/kernels/library.py",
        LIBRARY,
    ]
    shown = doctor(python, built)
    assert shown["library"].endswith(LIBRARY)
    assert "scalar" in shown["instruction sets"]
    assert shown["amx"] == "not used"


def prepare(case: str, project: Path) -> dict[str, str]:
    """What differs from a machine where the kernels are built: the environment, or the sources."""
    if case == "broken source":
        require("cmake", "c++")
        with (project / "src/minilm/kernels/cpp/api.cpp").open("a") as file:
            file.write("this is not C++\n")
        return {}
    return {"PATH": path_without({"no CMake": CMAKE, "no compiler": COMPILERS}[case], project.parent / "bin")}


CASES = {"no CMake": "CMake is not found", "no compiler": "CMAKE_CXX_COMPILER", "broken source": "error: "}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_compiled_leaves_a_working_installation_that_says_so(python, project, case):
    if case == "no compiler":
        require("cmake")
    built, said = wheel(python, project, **prepare(case, project))
    assert built.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(built).namelist()
    assert LIBRARY not in names
    assert "minilm/kernels/build.log" in names
    assert "warning: minilm works without its kernels (C++), which are not built:" in said
    shown = doctor(python, built)
    assert shown["library"].startswith("none: they could not be built, see the end of ")
    assert CASES[case] in shown["build log ends"]


@pytest.mark.parametrize("case", ["no CMake", "no compiler"])
def test_where_the_kernels_are_required_a_failed_build_is_an_error(python, project, case):
    if case == "no compiler":
        require("cmake")
    environment = prepare(case, project)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "-w", project / "out")
    said = run(python, "-m", "pip", "wheel", *options, project, fails=True, MINILM_KERNELS="require", **environment)
    assert "the kernels (C++) cannot be built, and MINILM_KERNELS=require is set:" in said
    assert CASES[case] in said
    assert "Traceback" not in said


def test_kernels_that_are_switched_off_are_not_built(python, project):
    built, _ = wheel(python, project, MINILM_KERNELS="off")
    with zipfile.ZipFile(built) as files:
        assert files.read("minilm/kernels/build.log") == b"MINILM_KERNELS=off was set when minilm was installed\n"


def test_a_misspelt_mode_is_named(python, project):
    said = run(python, "hatch_build.py", cwd=project, fails=True, MINILM_KERNELS="requier")
    assert said == "MINILM_KERNELS is 'requier'; expected 'require', 'off' or nothing\n"


def test_an_edited_source_makes_the_library_of_a_checkout_old_until_it_is_built_again(python, project):
    """With `src` first on the path, as in tests; what is built replaces the old library."""
    require("cmake", "c++")
    source = project / "src"
    line = "from minilm.kernels.library import find_library as f; print(f().reason or f().path)"

    def found() -> str:
        return run(python, "-c", line, PYTHONPATH=f"{source}{os.pathsep}{PACKAGES}").strip()

    run(python, "hatch_build.py", cwd=project)
    assert found() == str(source / LIBRARY)
    with (source / "minilm/kernels/cpp/api.cpp").open("a") as file:
        file.write("// edited\n")
    assert "is an old library" in found()
    run(python, "hatch_build.py", cwd=project)
    assert found() == str(source / LIBRARY)
    (source / "minilm/kernels/cpp/new.hpp").write_text("// a new file\n")
    assert "is an old library" in found()
    with (source / "minilm/kernels/cpp/api.cpp").open("a") as file:
        file.write("this is not C++\n")
    run(python, "hatch_build.py", cwd=project)
    assert "is an old library" in found()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="such units are for x86-64")
def test_a_unit_whose_flags_the_compiler_does_not_know_is_left_out(project, tmp_path):
    require("cmake", "c++", "make")
    compiler = tmp_path / "old-c++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *-mavx512bf16*) exit 1;; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    run("cmake", "-S", project / "src/minilm/kernels/cpp", "-B", tmp_path / "build", CXX=str(compiler))
    commands = json.loads((tmp_path / "build" / "compile_commands.json").read_text(encoding="utf-8"))
    assert "isa_avx512_bf16.cpp" not in {Path(command["file"]).name for command in commands}
    assert all("MINILM_HAS_AVX512_VNNI=1" in command["command"] for command in commands)
    assert not any("MINILM_HAS_AVX512_BF16" in command["command"] for command in commands)
