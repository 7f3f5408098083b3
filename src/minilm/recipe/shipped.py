"""The recipes that ship with the package.

In: a name such as `distill/tiny-embedded`.
Out: its path or text; names come from the folder, so a new file is a new recipe.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

from minilm.errors import SystemProblem, UsageError

_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def _folder() -> Path:
    """The wheel holds the recipes inside the package; a checkout holds them at its root."""
    for folder in (_PACKAGE / "_recipes", _PACKAGE.parents[1] / "recipes"):
        if folder.is_dir():
            return folder
    raise SystemProblem(f"the shipped recipes are missing from {_PACKAGE}: install minilm again")


def recipe_names() -> list[str]:
    """Names of all shipped recipes, sorted, such as `distill/tiny-embedded`."""
    folder = _folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def recipe_text(name: str) -> str:
    """Text of a shipped recipe, comments included.

    Raises:
        UsageError: no recipe has this name.
    """
    return _shipped_path(name).read_text(encoding="utf-8")


def find_recipe(path_or_name: str) -> Path:
    """Resolve what a user typed: a file if there is one, else a shipped recipe of that name.

    Raises:
        UsageError: it is neither.
    """
    path = Path(path_or_name)
    return path if path.is_file() else _shipped_path(path_or_name)


def _shipped_path(name: str) -> Path:
    names = recipe_names()
    bare = name.removesuffix(".yaml")
    matches = [known for known in names if bare in (known, known.rpartition("/")[2])]
    if len(matches) == 1:
        return _folder() / f"{matches[0]}.yaml"
    if matches:
        raise UsageError(f"{name!r} is the name of several recipes: {', '.join(matches)}; give the whole name")
    tails = {known.rpartition("/")[2]: known for known in names}
    longer = [known for known in names if known.partition("/")[2].startswith(f"{bare}-")]
    close = get_close_matches(bare, names, n=1) or [tails[t] for t in get_close_matches(bare, tails, n=1)]
    if longer:
        hint = f"; shipped are {', '.join(longer)}"
    else:
        hint = f": did you mean {close[0]!r}?" if close else "; `minilm recipes list` shows the shipped ones"
    raise UsageError(f"{name!r} is neither a file nor a shipped recipe{hint}")
