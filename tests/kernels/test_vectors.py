"""The kernels against stored vectors of a float64 reference, by a program that needs no Python: here and on 64-bit ARM.

The stored file is what `vectors/reference.py` computes now. NEON runs under qemu where a cross compiler is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.kernels.vectors.reference import FILE, content

from minilm.kernels.library import find_library

HERE = Path(__file__).parent / "vectors"
BUILD = Path(__file__).resolve().parents[2] / "build"
CROSS, QEMU = "aarch64-linux-gnu-g++", ("qemu-aarch64-static", "qemu-aarch64")


def run(*command: object) -> str:
    """What a command prints, if it ends well."""
    words = [str(word) for word in command]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
    assert done.returncode == 0, done.stdout
    return done.stdout


def numbers_of(data: bytes) -> tuple[list[bytes], np.ndarray]:
    """The lines of a file of vectors, and all of its numbers."""
    lines, numbers = [], []
    while data:
        line, _, data = data.partition(b"\n")
        lines.append(line)
        if line.startswith(b"expect"):
            size = 4 * int(line.split()[-1])
            numbers.append(np.frombuffer(data[:size], "<f4"))
            data = data[size + 1 :]
    return lines, np.concatenate(numbers)


def test_the_stored_vectors_are_those_of_the_reference():
    (lines, stored), (now, expected) = numbers_of(FILE.read_bytes()), numbers_of(content())
    assert lines == now, f"run python {HERE / 'reference.py'}"
    np.testing.assert_allclose(stored, expected, atol=1e-6, rtol=1e-6)


def test_every_instruction_set_of_this_machine(tmp_path):
    compiler = next(filter(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    library = find_library().path.resolve()
    program = tmp_path / "check"
    run(compiler, "-std=c++20", "-O1", HERE / "check.cpp", library, f"-Wl,-rpath,{library.parent}", "-o", program)
    said = run(program, FILE)
    assert "scalar int8 long: " in said
    assert said.endswith("passed\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_neon():
    emulator = next(filter(shutil.which, QEMU), None)
    if not (shutil.which(CROSS) and emulator and shutil.which("cmake")):
        pytest.skip(f"{CROSS}, {' or '.join(QEMU)}, or cmake is not installed")
    folder = BUILD / "aarch64"
    target = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={CROSS}")
    run("cmake", "-S", HERE, "-B", folder, *target, "-DMINILM_WERROR=ON")
    run("cmake", "--build", folder, "--parallel", os.cpu_count() or 1)
    said = run(emulator, folder / "check", FILE, "neon")
    assert "neon int8 long: " in said
    assert said.endswith("passed\n")
