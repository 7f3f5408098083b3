"""The recipes that ship with the package.

In: a name such as `distill/tiny-embedded`.
Out: its path or text, or the path of its reference curve. Names are those of the files: adding one adds a recipe.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

from minilm.errors import SystemProblem, UsageError

_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def _folder() -> Path:
    """The folder of the recipes: inside the package in a wheel, at the repository root in a checkout."""
    for folder in (_PACKAGE / "_recipes", _PACKAGE.parents[1] / "recipes"):
        if folder.is_dir():
            return folder
    raise SystemProblem(f"the shipped recipes are missing from {_PACKAGE}: reinstall minilm")


def recipe_names() -> list[str]:
    """Names of all shipped recipes, sorted, such as `distill/tiny-embedded`."""
    folder = _folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def recipe_text(name: str) -> str:
    """Text of a shipped recipe, including comments.

    Raises:
        UsageError: no recipe has this name.
    """
    return _shipped_path(name).read_text(encoding="utf-8")


def find_recipe(path_or_name: str) -> Path:
    """Resolve a user's argument to a file if it exists, else to the shipped recipe of that name.

    Raises:
        UsageError: it is neither.
    """
    path = Path(path_or_name)
    return path if path.is_file() else _shipped_path(path_or_name)


def curve_path(name: str) -> Path | None:
    """The reference curve of the shipped recipe `distill/NAME`; None if it has none."""
    folder = _folder() / "distill" / "curves"
    return next((path for path in folder.glob("*.json") if path.stem == name), None)


def _shipped_path(name: str) -> Path:
    names = recipe_names()
    bare = name.removesuffix(".yaml")
    matches = [known for known in names if bare in (known, known.rpartition("/")[2])]
    if len(matches) == 1:
        return _folder() / f"{matches[0]}.yaml"
    if matches:
        raise UsageError(f"{name!r} is ambiguous: it matches {', '.join(matches)}; use the full name")
    tails = {known.rpartition("/")[2]: known for known in names}
    longer = [known for known in names if known.partition("/")[2].startswith(f"{bare}-")]
    close = get_close_matches(bare, names, n=1) or [tails[t] for t in get_close_matches(bare, tails, n=1)]
    if longer:
        hint = f"; similar shipped recipes: {', '.join(longer)}"
    else:
        hint = f": did you mean {close[0]!r}?" if close else "; `minilm recipes list` shows the shipped ones"
    raise UsageError(f"{name!r} is neither a file nor a shipped recipe{hint}")
