"""Build the kernels (C++) with CMake: as a part of the package, or alone with `python hatch_build.py` (make kernels).

In: src/minilm/kernels/cpp, a C++ compiler, CMake, and Ninja or make. Out: the library, in the wheel or, for an editable
install, beside the Python file that loads it. Where this fails, minilm is installed without it: a warning, and the log
in the library's place, whose end `minilm doctor` shows. The environment variable MINILM_KERNELS=require makes a failure
an error, MINILM_KERNELS=off builds nothing. CMAKE_ARGS are more options for CMake.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
KERNELS = ROOT / "src" / "minilm" / "kernels"
LIBRARY, LOG = "libminilm_kernels.so", "build.log"
LINES_SHOWN = 15
LONGEST = 3600  # seconds of a command
MODES = ("", "require", "off")


class BuildFailed(Exception):
    """The kernels cannot be built; the message is the log."""


class KernelsHook(BuildHookInterface[Any]):
    """Hatchling calls this before it writes a wheel."""

    def dependencies(self) -> list[str]:
        """What an isolated build installs: CMake and Ninja, if only they are missing and their wheels exist."""
        compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
        if self.target_name != "wheel" or not compiler or platform.machine() not in ("x86_64", "aarch64"):
            return []
        if os.environ.get("MINILM_KERNELS") == "off":
            return []
        wanted = {"cmake>=3.20": program("cmake"), "ninja>=1.10": program("ninja") or program("make")}
        return [package for package, found in wanted.items() if not found]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and add the library or the log to the wheel."""
        if self.target_name != "wheel":
            return
        try:
            if version == "editable":
                build_in_place()
                return
            self.folder = tempfile.TemporaryDirectory()
            built = build_or_log(Path(self.folder.name), Path(self.folder.name, LOG))
        except BuildFailed as error:
            self.app.abort(str(error))
        build_data["force_include"][str(built)] = f"minilm/kernels/{built.name}"
        if built.name == LIBRARY:
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"], build_data["pure_python"] = f"py3-none-{system}", False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete what was built: it is in the wheel now."""
        if hasattr(self, "folder"):
            self.folder.cleanup()


def mode() -> str:
    """The value of MINILM_KERNELS."""
    value = os.environ.get("MINILM_KERNELS", "")
    if value not in MODES:
        raise BuildFailed(f"MINILM_KERNELS is {value!r}; expected 'require', 'off' or nothing")
    return value


def build_in_place() -> None:
    """Build incrementally; put the library where a checkout loads it from, or the log if there is none.

    A library that is there stays when a build fails: the loader compares it with the sources.
    """
    built = build_or_log(ROOT / "build" / "kernels", KERNELS / LOG)
    if built.name == LOG:
        return
    (KERNELS / LOG).unlink(missing_ok=True)
    target = KERNELS / LIBRARY
    if not (target.is_file() and filecmp.cmp(built, target, shallow=False)):
        aside = target.with_suffix(".new")  # a running process keeps the file that it has loaded
        shutil.copy(built, aside)
        aside.replace(target)


def build_or_log(folder: Path, log: Path) -> Path:
    """Build in a folder and return the library. If that fails, warn, write the log and return its path.

    Raises:
        BuildFailed: it fails and MINILM_KERNELS=require is set.
    """
    try:
        if mode() == "off":
            raise BuildFailed("MINILM_KERNELS=off was set when minilm was installed")
        return build(folder)
    except BuildFailed as error:
        log.write_text(f"{error}\n", encoding="utf-8")
        end = "\n".join(f"  {line}" for line in str(error).splitlines()[-LINES_SHOWN:])
        if mode() == "require":
            raise BuildFailed(f"the kernels (C++) cannot be built, and MINILM_KERNELS=require is set:\n{end}") from None
        print(f"warning: minilm works without its kernels (C++), which are not built:\n{end}", file=sys.stderr)
        return log


def build(folder: Path, *options: str) -> Path:
    """Configure and compile in a folder, incrementally if it was used before; return the library.

    Raises:
        BuildFailed: with everything that CMake and the compiler have printed.
    """
    cmake, ninja = program("cmake"), program("ninja")
    if cmake is None:
        raise BuildFailed("CMake is not found: install it (pip install cmake ninja) and install minilm again")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    more = [*options, *shlex.split(os.environ.get("CMAKE_ARGS", ""))]
    configure = [cmake, "-S", str(KERNELS / "cpp"), "-B", str(folder), *generator, *more]
    cache = folder / "CMakeCache.txt"
    try:
        said = run(configure)
    except BuildFailed:
        if not cache.is_file():
            raise
        cache.unlink()  # of another generator, compiler or place
        shutil.rmtree(folder / "CMakeFiles", ignore_errors=True)
        said = run(configure)
    try:
        run([cmake, "--build", str(folder), "--parallel", str(os.cpu_count() or 1)])
    except BuildFailed as error:
        raise BuildFailed(f"{said}{error}") from None
    return folder / LIBRARY


def program(name: str) -> str | None:
    """Path of a program that works: the one beside this Python (requirements.lock), else the one on the path."""
    for found in (shutil.which(name, path=sysconfig.get_path("scripts")), shutil.which(name)):
        try:
            if found and subprocess.run([found, "--version"], capture_output=True, timeout=60).returncode == 0:
                return found
        except (OSError, subprocess.TimeoutExpired):  # not for this machine, or it hangs
            continue
    return None


def run(command: list[str]) -> str:
    """Return what a command prints, after the command itself."""
    said = f"$ {shlex.join(command)}\n"
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=LONGEST
        )
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or ""  # bytes, even where text is asked for
        said += printed.decode(errors="replace") if isinstance(printed, bytes) else printed
        raise BuildFailed(f"{said}\nit was stopped: it ran for {LONGEST} seconds") from None
    said += done.stdout
    if done.returncode:
        raise BuildFailed(f"{said}exit status {done.returncode}")
    return said


def main() -> None:
    """Build the library of this checkout, or another one for tests below build/."""
    parser = argparse.ArgumentParser(description="Build the kernels of this checkout.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sanitize", action="store_true", help="with AddressSanitizer and UBSan, into build/sanitize")
    which.add_argument(
        "--emulated", action="store_true", help="with AVX-512 by functions, into build/emulated; for GCC"
    )
    chosen = parser.parse_args()
    try:
        if chosen.sanitize:
            print(build(ROOT / "build" / "sanitize", "-DMINILM_SANITIZE=ON", "-DMINILM_WERROR=ON"))
        elif chosen.emulated:
            flags = f'-O2 -Wno-psabi -I"{ROOT / "tests" / "kernels" / "emulated"}"'
            print(build(ROOT / "build" / "emulated", "-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_FLAGS={flags}"))
        else:
            build_in_place()
    except BuildFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
