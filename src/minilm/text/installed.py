"""English that every Python installation has: docstrings of the standard library, the language reference.

In: nothing. Out: texts as they were written, in an order that does not change.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_SKIPPED = {"site-packages", "test", "tests", "idlelib", "turtledemo", "lib2to3", "distutils", "ensurepip"}


def docstrings() -> Iterator[tuple[str, str]]:
    """(top-level module, docstring) of the standard library's sources, parsed without importing them."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).parts
        if _SKIPPED & set(parts):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, OSError, ValueError):  # skip files that cannot be parsed
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield parts[0].removesuffix(".py"), ast.get_docstring(node) or ""


def manual() -> list[str]:
    """The articles of the language reference."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]
