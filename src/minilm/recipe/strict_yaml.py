"""A strict YAML reader without implicit surprises; every problem names its line.

In: the text of one YAML file, or the text after the `=` of an override.
Out: plain Python values, and the line number of every key and list item.
Scalars follow YAML 1.2: `1e-4` is a number; only true and false are booleans, so `no` and `on` are text.
Duplicate keys, anchors, aliases and tags are rejected. Every problem is a one-line UsageError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from minilm.errors import DataError, UsageError
from minilm.files.regular import read_text

MAX_BYTES = 2**18
MAX_DEPTH = 32

Keys = tuple[str | int, ...]

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_FALSE_FRIENDS = {"y", "n", "yes", "no", "on", "off"}  # booleans to YAML 1.1 readers, so they are quoted
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed file: its values and their line numbers.

    Attributes:
        source: the file's name, for messages.
        value: the top-level mapping.
        lines: path of a key or list item -> its line number from 1; `()` maps to the first line.
    """

    source: str
    value: dict[str, object]
    lines: dict[Keys, int]


class _Loader(yaml.SafeLoader):
    """PyYAML's reader and parser without implicit types; `_scalar` interprets the scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - the name PyYAML looks up

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """Reject features that recipes do not need before they consume resources."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        problem = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "anchors and aliases (& and *) are not allowed: write the value out, or quote the text"
        elif getattr(event, "tag", None) is not None:
            problem = f"tags are not allowed, found {event.tag!r}: quote the text if it is meant literally"
        elif self.depth >= MAX_DEPTH:
            problem = f"nested deeper than {MAX_DEPTH} levels"
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)  # type: ignore[arg-type]
        self.depth -= 1
        return node


def read_document(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        UsageError: the file cannot be read, is not UTF-8 text, is not valid YAML or violates a rule above.
    """
    try:
        text = read_text(path, max_bytes=MAX_BYTES)
    except DataError as error:
        raise UsageError(str(error)) from error
    return parse_document(text, source=str(path))


def parse_document(text: str, *, source: str) -> Document:
    """Parse YAML text whose top level is a mapping; `source` names it in messages."""
    value, lines = _parse(text, source=source)
    if not isinstance(value, dict):
        raise UsageError(f"{source}:1: found {describe(value)} at the top level, expected keys such as 'name: ...'")
    return Document(source=source, value=value, lines=lines)


def parse_value(text: str, *, source: str) -> object:
    """Parse a single value by the same rules, for example the right side of an override."""
    return _parse(text, source=source)[0]


def describe(value: object) -> str:
    """Describe a value briefly, for an error message."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a section (key: value lines)"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f"the text {_short(repr(value))}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _short(str(value))


def dump_scalar(value: str | float | bool | None) -> str:
    """Write a scalar so that reading it back yields the same value and type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", value, re.ASCII) and isinstance(_scalar(value), str)
    return (
        value
        if plain and value.lower() not in _FALSE_FRIENDS
        else '"' + re.sub(r"[^ !#-\[\]-~\xa0-\u024f]", _escape, value) + '"'
    )


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    return "\\" + char if char in '"\\' else f"\\U{ord(char):08x}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _parse(text: str, *, source: str) -> tuple[object, dict[Keys, int]]:
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise _problem(source, line, error.problem or "bad YAML") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = ord(text[error.position])
        raise _problem(source, line, f"character U+{code:04X} is not allowed in YAML") from None
    builder = _Builder(source)
    value = None if node is None else builder.build(node, ())
    return value, builder.lines


def _problem(source: str, line: int, text: str) -> UsageError:
    """Describe a problem in one line; overrides have no line numbers."""
    text = " ".join(text.split())
    if "'\\t'" in text:
        text += " (indent with spaces, not tabs)"
    return UsageError(f"{source}: {text}" if source.startswith("--set") else f"{source}:{line}: {text}")


class _Builder:
    """Converts PyYAML nodes to plain values and records their line numbers."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Keys, int] = {(): 1}

    def build(self, node: yaml.Node, path: Keys) -> object:
        """Convert the node at `path`."""
        if isinstance(node, yaml.SequenceNode):
            return [self._item(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        assert isinstance(node, yaml.ScalarNode)
        return str(node.value) if node.style is not None else _scalar(node.value)

    def _item(self, node: yaml.Node, here: Keys) -> object:
        self.lines[here] = node.start_mark.line + 1
        return self.build(node, here)

    def _mapping(self, node: yaml.MappingNode, path: Keys) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, line)
            here = (*path, key)
            if key in mapping:
                dotted, first = ".".join(map(str, here)), self.lines[here]
                text = f"duplicate key '{dotted}', first on line {first}: keep one of them"
                raise _problem(self.source, line, text)
            mapping[key] = self.build(child, here)
            self.lines[here] = line
        return mapping

    def _key(self, node: yaml.Node, line: int) -> str:
        key = _Builder(self.source).build(node, ())
        if isinstance(key, str):
            return key
        raise _problem(self.source, line, f"a key must be text, found {describe(key)}: put it in quotes")


def _scalar(text: str) -> str | float | bool | None:
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".", "") if text[-1] in "fFnN" else text)  # .inf and .nan lose their dot
    return text
