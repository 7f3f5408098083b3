"""Dotted overrides: `train.learning_rate=3e-4`, `students.0.init=layers`.

In: the raw values of a recipe and the text of one override.
Out: the values, modified in place, and the path that was set. Unknown keys are detected by the validation of the
recipe, so they get the same "did you mean" as keys of a file.
"""

from __future__ import annotations

from minilm.errors import UsageError
from minilm.recipe.strict_yaml import Keys, describe, parse_value


def apply_override(tree: dict[str, object], override: str) -> Keys:
    """Apply one override to the raw values; returns the path that was set."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted or not all(dotted.split(".")):
        raise UsageError(f"--set {override}: expected KEY=VALUE with a dotted key, such as train.learning_rate=3e-4")
    value = parse_value(text, source=f"--set {override}")
    node: object = tree
    keys: list[str | int] = []
    parts = dotted.split(".")
    for part in parts[:-1]:
        key = _key_in(node, part, override)
        keys.append(key)
        node = _descend(node, key)
    last = _key_in(node, parts[-1], override)
    _put(node, last, value)
    return (*keys, last)


def _key_in(node: object, part: str, override: str) -> str | int:
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise UsageError(f"--set {override}: the parent of '{part}' is {describe(node)}, expected a section or a list")
    if not (part.isascii() and part.isdigit() and int(part) < len(node)):
        raise UsageError(f"--set {override}: '{part}' is not an index of a list of {len(node)}: indices start at 0")
    return int(part)


def _descend(node: object, key: str | int) -> object:
    if isinstance(node, dict):
        if node.get(key) is None:
            node[key] = {}
        return node[key]
    assert isinstance(node, list)
    return node[int(key)]


def _put(node: object, key: str | int, value: object) -> None:
    assert isinstance(node, (dict, list))
    node[key] = value  # type: ignore[index]
