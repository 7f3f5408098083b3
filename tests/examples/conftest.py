"""Microsoft's command lines as modules, and their parsers."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def load_script(repo_dir) -> Iterator[Callable[[str], ModuleType]]:
    """`load_script(name)`: a script of `examples/microsoft` as a new module."""
    folder = repo_dir / "examples" / "microsoft"

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield load


@pytest.fixture
def parse(script, request):
    """`parse("--flags")` with the `REQUIRED` ones of the test file."""
    required = [word for name, value in request.module.REQUIRED.items() for word in (f"--{name}", value)]
    return lambda line="": script.parser().parse_args([*required, *shlex.split(line)])
