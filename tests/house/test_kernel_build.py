"""How the kernels are compiled: code for a processor that users may not have is only where it is asked for.

Checked on what `make kernels` has built.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BUILD = REPO / "build" / "kernels"
AVX2 = {"-mavx2", "-mfma"}
AVX512 = {*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"}
# The flags of each unit that choose instructions; all others have none.
UNITS = {
    "isa_avx2": AVX2,
    "isa_avxvnni": {*AVX2, "-mavxvnni"},
    "isa_avx512": AVX512,
    "isa_avx512_vnni": {*AVX512, "-mavx512vnni"},
    "isa_avx512_bf16": {*AVX512, "-mavx512vnni", "-mavx512bf16"},
}
EVERYWHERE = {"-O3", "-std=c++20", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden"}
EVERYWHERE |= {"-fno-strict-aliasing"}  # products read rows of floats and of bfloat16 as groups of 32 bits
INEXACT = {"-Ofast", "-ffast-math", "-funsafe-math-optimizations", "-fassociative-math", "-fopenmp"}


@pytest.fixture(scope="module")
def commands() -> dict[str, set[str]]:
    """The words of the command that compiled each unit."""
    file = BUILD / "compile_commands.json"
    if not file.is_file():
        assert os.environ.get("MINILM_KERNELS") != "require", f"there is no {file}: run 'make kernels'"
        pytest.skip("the kernels are not built: run 'make kernels'")
    entries = json.loads(file.read_text(encoding="utf-8"))
    return {Path(entry["file"]).stem: set(shlex.split(entry["command"])) for entry in entries}


def symbols(*options: str | Path) -> list[tuple[str, str]]:
    """Kind and name of each symbol that a binary defines."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    done = subprocess.run(["nm", "--defined-only", *options], capture_output=True, text=True, timeout=60, check=True)
    return [(kind, name) for _, kind, name in (line.split(maxsplit=2) for line in done.stdout.splitlines())]


def test_each_unit_has_its_own_instructions_and_no_other_has_them(commands):
    """No -march=native either: it is among the flags that begin with -m."""
    found = {unit: {word for word in words if word.startswith("-m")} for unit, words in commands.items()}
    assert found == {unit: UNITS.get(unit, set()) for unit in commands}


def test_every_unit_is_compiled_exactly(commands):
    assert all(words >= EVERYWHERE and not words & INEXACT for words in commands.values())


def test_every_source_is_compiled(commands):
    """A compiler that is too old for a unit leaves it out; those that run the tests are not."""
    sources = {path.stem for path in (REPO / "src" / "minilm" / "kernels" / "cpp").glob("*.cpp")}
    neon = {"isa_neon"}
    assert set(commands) == sources - (neon if platform.machine() == "x86_64" else set(UNITS))


def test_units_share_no_code_that_the_linker_may_merge(commands):
    """Of an inline function or a template in several units it keeps one, perhaps one of AVX-512, for all of them."""
    objects = [BUILD / "CMakeFiles" / "minilm_kernels.dir" / f"{unit}.cpp.o" for unit in UNITS if unit in commands]
    shared = {path.name: [name for kind, name in symbols("-C", path) if kind in "Wu"] for path in objects}
    assert not any(shared.values()), shared


def test_the_library_shows_only_its_own_functions(commands):
    names = [name for _, name in symbols("-D", BUILD / "libminilm_kernels.so")]
    assert "minilm_kernels_source_hash" in names
    assert [name for name in names if not name.startswith("minilm_")] == []
