"""The compiled kernels of this installation, or why there are none.

In: the library that hatch_build.py has put beside this file. Out: a `Library` with the loaded functions or a reason.
In a checkout a library that was built from other sources than those in `cpp/` is never used.
Environment: MINILM_KERNELS=off switches the kernels off; MINILM_KERNELS_LIBRARY names another library, for tests.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from minilm.errors import SystemProblem, UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ctypes import CDLL

FOLDER = Path(__file__).resolve().parent
LINES_SHOWN = 15  # of the build log
SWITCHED_OFF = "MINILM_KERNELS=off is set"


@dataclass(frozen=True, kw_only=True)
class Library:
    """The loaded library, or None and the reason: what was found and the way out, in one line."""

    functions: CDLL | None = None
    path: Path | None = None
    reason: str = ""
    log: Path | None = None  # of the build that failed

    def text(self, name: str) -> str | None:
        """What a function without arguments that returns a `const char*` says; None without one."""
        from ctypes import c_char_p

        function = getattr(self.functions, name, None)
        if function is None:
            return None
        function.restype = c_char_p
        value: bytes | None = function()
        return None if value is None else value.decode()


def is_switched_off() -> bool:
    """Whether MINILM_KERNELS=off is set.

    Raises:
        UsageError: MINILM_KERNELS has another value than those that it can have.
    """
    value = os.environ.get("MINILM_KERNELS", "")
    if value not in ("", "require", "off"):
        raise UsageError(f"the environment variable MINILM_KERNELS is {value!r}; expected 'off', 'require' or nothing")
    return value == "off"


@cache
def find_library() -> Library:
    """Load the kernels once per process.

    Raises:
        UsageError: MINILM_KERNELS has another value than those that it can have.
    """
    if is_switched_off():
        return Library(reason=SWITCHED_OFF)
    named = os.environ.get("MINILM_KERNELS_LIBRARY")
    return load(Path(named) if named else FOLDER / "libminilm_kernels.so")


def declared(what: str, *, results: Mapping[str, Any], arguments: Mapping[str, Sequence[Any]]) -> CDLL:
    """The library, where functions have the types of ctypes that are given by name.

    Raises:
        SystemProblem: there is none, so that `what` is not available.
    """
    from ctypes import c_char_p

    library = find_library()
    functions = library.functions
    if functions is None:
        raise SystemProblem(f"{what} is not available: {library.reason}")
    functions.minilm_error.restype = c_char_p
    for name, result in results.items():
        getattr(functions, name).restype = result
    for name, kinds in arguments.items():
        getattr(functions, name).argtypes = kinds
    return functions


class NotCopied:
    """What holds memory of the library, which is freed once, and threads of this process: there are no copies of it."""

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled, alone or with what it is part of."""
        raise UsageError(
            "a model or kernel that the compiled kernels run cannot be copied or pickled: load it again where it is "
            "needed, in another process too"
        )


def error_of(functions: CDLL) -> str:
    """What the last function that failed in this thread says."""
    message: bytes = functions.minilm_error()
    return message.decode(errors="replace")


def load(path: Path, folder: Path = FOLDER) -> Library:
    """Load a library whose sources, in a checkout, are in a folder, as is the log of the build that puts it there."""
    sources, log = folder / "cpp", folder / "build.log"
    again = "run 'make kernels'"
    if not sources.is_dir():
        again = "install a C++ compiler, then minilm again with pip install --force-reinstall --no-cache-dir"
    if not path.is_file():
        if log.is_file() and path.parent == folder:
            return Library(reason=f"they could not be built, see the end of {log}; to try again, {again}", log=log)
        return Library(reason=f"there is no {path}: {again}")
    from ctypes import CDLL

    try:
        library = Library(functions=CDLL(str(path.resolve())), path=path)
    except OSError as error:
        return Library(reason=f"{path} cannot be loaded: {one_line(error)}; {again}")
    if sources.is_dir() and library.text("minilm_kernels_source_hash") != source_hash(sources):
        return Library(
            reason=f"{path} is an old library, built from other sources than {sources}: {again}",
            log=log if log.is_file() else None,
        )
    return library


def source_hash(folder: Path) -> str:
    """The hash that `cpp/CMakeLists.txt` compiles in: SHA-256 of a line "name hash" per source file, sorted by name."""
    from hashlib import sha256

    files = [path for path in folder.iterdir() if path.suffix in (".cpp", ".hpp") or path.name == "CMakeLists.txt"]
    lines = (f"{path.name} {sha256(path.read_bytes()).hexdigest()}\n" for path in sorted(files))
    return sha256("".join(lines).encode()).hexdigest()


def facts() -> dict[str, object]:
    """What `minilm doctor` shows: the library, its instruction sets and the chosen one, or the end of the build log."""
    try:
        library = find_library()
    except UsageError as error:
        return {"library": f"none: {error}"}
    if library.functions is None:
        found: dict[str, object] = {"library": f"none: {library.reason}"}
        if library.log is not None:
            lines = library.log.read_text(encoding="utf-8", errors="replace").splitlines()
            found["build log ends"] = "\n".join(lines[-LINES_SHOWN:])
        return found
    from minilm.kernels.encoder import chosen_isa

    try:
        chosen = chosen_isa()
    except UsageError as error:
        chosen = f"none: {error}"
    names = (library.text("minilm_kernels_isas") or "").split()
    return {
        "library": str(library.path),
        "instruction sets": [f"{name[:-1]} (not on this processor)" if name.endswith("-") else name for name in names],
        "chosen": chosen,
        "amx": "not used",
    }
