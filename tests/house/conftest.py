"""The source, parsed once, for the rules that are checked on it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class SourceFile:
    """One Python file: `name` relative to the repository, `module` relative to `src/minilm`."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(REPO).as_posix()

    @property
    def module(self) -> str:
        return self.name.removeprefix("src/minilm/")

    @property
    def room(self) -> str:
        return self.module.partition("/")[0].removesuffix(".py")

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> frozenset[str]:
        """Full names of everything imported anywhere, `from a import b` as `a` and `a.b`."""
        return frozenset(self.imported_by(ast.walk(self.tree)))

    @property
    def roots(self) -> set[str]:
        return {name.partition(".")[0] for name in self.imports}

    @property
    def rooms(self) -> set[str]:
        """The rooms and top modules of minilm that are imported, such as `model` or `errors`."""
        return {name.split(".")[1] for name in self.imports if name.startswith("minilm.")}

    @staticmethod
    def imported_by(nodes) -> set[str]:
        names: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                names.update((module, *(f"{module}.{alias.name}" for alias in node.names)))
        return names


def files_below(*folders: str) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(path) for folder in folders for path in sorted((REPO / folder).rglob("*.py")))


@pytest.fixture(scope="session")
def package() -> tuple[SourceFile, ...]:
    """The files of `src/minilm`."""
    return files_below("src/minilm")


@pytest.fixture(scope="session")
def shipped(package) -> tuple[SourceFile, ...]:
    """What users get: the package and the examples."""
    return (*package, *files_below("examples"))


@pytest.fixture(scope="session")
def tests() -> tuple[SourceFile, ...]:
    """The tests."""
    return files_below("tests")


@pytest.fixture(scope="session")
def everything(shipped, tests) -> tuple[SourceFile, ...]:
    """Every Python file of the repository."""
    return (*shipped, *tests, *files_below("benchmarks"))


@pytest.fixture(scope="session")
def loaded_after():
    """Full names of all modules that a fresh Python has loaded after each of these imports, one after the other."""

    def loaded(*modules: str) -> list[set[str]]:
        lines = "".join(f"import {module}; print(*sys.modules)\n" for module in modules)
        env = {**os.environ, "PYTHONPATH": str(REPO / "src")}
        command = [sys.executable, "-c", f"import sys\n{lines}"]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True, timeout=60)
        return [set(line.split()) for line in done.stdout.strip().split("\n")]

    return loaded
