"""Turns validation errors of a recipe into a one-line, actionable message.

In: pydantic's errors, the line numbers of the file and the paths that overrides set.
Out: "recipe.yaml:12: train.steps: found the text 'many', expected an integer", with "did you mean" for keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, get_args, get_origin, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from minilm.recipe.sections import field_names
from minilm.recipe.strict_yaml import Document, Keys, describe

_EXPECTED: Mapping[str, str] = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "is_instance_of": "a list",
    "sequence_str": "a list",
    "dict_type": "a section (key: value lines)",
    "dataclass_type": "a section (key: value lines)",
    "model_type": "a section (key: value lines)",
    "model_attributes_type": "a section (key: value lines)",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "{min_length} or more",
    "too_long": "{max_length} or fewer",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "at most 64 letters, digits, '.', '_' or '-', a letter or digit first",
}
_NOT_BOOLEANS = {"yes", "no", "on", "off", "y", "n"}


def first_problem(error: ValidationError, document: Document, set_keys: Sequence[Keys], schema: type) -> str:
    """Describe the first problem, in file order, in one line."""
    problems: dict[Keys, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        problems.setdefault(_known_part(detail, document.value), []).append(detail)
    # A missing key may be a misspelled one: report unknown keys first.
    keys = min(problems, key=lambda found: (problems[found][0]["type"] == "missing", _line(found, document)))
    more = len(problems) - 1
    tail = f" (and {more} more problem{'s' * (more > 1)})" if more else ""
    text = _say(keys, problems[keys], schema, _kind_of(document.value))
    # what is wrong between sections is not in one of them: its message names the keys
    named = keys or next((written for written in set_keys if _is_named(written, text)), keys)
    return f"{location_of(named, document, set_keys)}: {text}{tail}"


def dotted_keys(schema: type, prefix: str = "", kind: str | None = None) -> list[str]:
    """All dotted keys of a schema; index 0 represents all items of a list, `kind` selects among sections."""
    keys = []
    hints = get_type_hints(schema, include_extras=True)
    for name in field_names(schema):
        sections = _sections_of(hints[name])
        chosen = [one for one in sections if kind in (None, getattr(one, "kind", None))] or sections
        if not sections:
            keys.append(prefix + name)
        for section in chosen:
            keys += dotted_keys(section, f"{prefix}{name}.0." if _is_list(hints[name]) else f"{prefix}{name}.", kind)
    return list(dict.fromkeys(keys))


def _is_list(annotation: object) -> bool:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return get_origin(bare) is list


def _sections_of(annotation: object) -> list[type]:
    """The sections in an annotation; several for a discriminated union."""
    if isinstance(annotation, type) and field_names(annotation):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_of(part)]


def without_kind(loc: Keys) -> Keys:
    """The path of a problem without the task's kind, which pydantic inserts after `task`."""
    return ("task", *loc[2:]) if loc[:1] == ("task",) else loc


def _known_part(detail: ErrorDetails, tree: Mapping[str, object]) -> Keys:
    """The path without the names that pydantic adds for the branches of a union."""
    loc = without_kind(detail["loc"])
    if detail["type"] == "union_tag_invalid":
        loc = (*loc, "kind")
    if detail["type"] == "missing":
        return loc
    node: object = tree
    keys: list[str | int] = []
    for key in loc:
        inside = isinstance(node, dict) and key in node
        if not inside and not (isinstance(node, list) and isinstance(key, int) and key < len(node)):
            break
        node = node[key]  # type: ignore[index]
        keys.append(key)
    return tuple(keys)


def _line(keys: Keys, document: Document) -> int:
    while keys not in document.lines:
        keys = keys[:-1]
    return document.lines[keys]


def _is_named(keys: Keys, text: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape('.'.join(map(str, keys)))}(?!\w)", text) is not None


def location_of(keys: Keys, document: Document, set_keys: Sequence[Keys]) -> str:
    """Where a value is from, for a message: the file with its line, or `--set`."""
    changed = any(written[: len(keys)] == keys for written in set_keys)
    if any(keys[: len(written)] == written for written in set_keys) or (changed and keys not in document.lines):
        return "--set"
    return f"{document.source}:{_line(keys, document)}{' with --set' if keys and changed else ''}"


def _say(keys: Keys, details: Sequence[ErrorDetails], schema: type, kind: str | None) -> str:
    detail = details[0]
    dotted = ".".join(map(str, keys))
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key '{dotted}'{_did_you_mean(keys, schema, kind)}"
    if detail["type"] == "union_tag_not_found":
        return f"the key '{dotted}.kind' is missing: expected one of {', '.join(_kinds(schema))}"
    if detail["type"] == "union_tag_invalid":
        close = get_close_matches(detail["ctx"]["tag"], _kinds(schema), n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        return f"{dotted}: found {describe(detail['ctx']['tag'])}, expected one of {', '.join(_kinds(schema))}{hint}"
    if detail["type"] == "missing":
        return f"the key '{dotted}' is missing"
    where = f"{dotted}: " if dotted else ""
    if detail["type"] == "value_error":
        return where + detail["msg"].removeprefix("Value error, ")
    expected = " or ".join(dict.fromkeys(_expected(one) for one in details))
    found = detail["input"]
    hint = ""
    if isinstance(found, str) and found.lower() in _NOT_BOOLEANS:
        hint = " (yes, no, on and off are text; booleans are true and false)"
    elif (
        isinstance(found, (int, float))
        and not isinstance(found, bool)
        and ("text" in expected or repr(str(found)) in expected)
    ):
        hint = f' (quote it to make it text: "{found}")'
    return f"{where}found {describe(found)}, expected {expected}{hint}"


def _expected(detail: ErrorDetails) -> str:
    template = _EXPECTED.get(detail["type"])
    return detail["msg"] if template is None else template.format(**detail.get("ctx", {}))


def _kind_of(tree: Mapping[str, object]) -> str | None:
    """The kind of the recipe's task, if it is text."""
    task = tree.get("task")
    kind = task.get("kind") if isinstance(task, dict) else None
    return kind if isinstance(kind, str) else None


def _kinds(schema: type) -> list[str]:
    """The kinds of tasks."""
    return [section.kind for section in _sections_of(get_type_hints(schema, include_extras=True)["task"])]  # type: ignore[attr-defined]


def _did_you_mean(keys: Keys, schema: type, kind: str | None) -> str:
    """Suggest the same name in another section, else a sibling with a similar name."""
    *parents, last = (str(key) for key in keys)
    prefix = "".join(f"{'0' if part.isdigit() else part}." for part in parents)
    known = dotted_keys(schema, kind=kind)
    siblings = list(dict.fromkeys(key[len(prefix) :].split(".")[0] for key in known if key.startswith(prefix)))
    elsewhere = [key for key in known if key.rpartition(".")[2] == last]
    if elsewhere and not get_close_matches(last, siblings, n=1, cutoff=0.85):
        return f": did you mean '{elsewhere[0]}'?"
    close = get_close_matches(last, siblings, n=1)
    if close:
        return f": did you mean '{'.'.join([*parents, close[0]])}'?"
    return f": expected one of {', '.join(siblings)}"
