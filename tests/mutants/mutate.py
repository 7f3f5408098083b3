"""Small changes to a Python file, one at a time, each of which a test should catch.

In: the text of a file. Out: its mutants, each with the whole changed text. Types, docstrings, messages and logging are
left alone: no test is expected to catch such a change.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
QUIET = ("logger.", "logging.", "warnings.")


@dataclass(frozen=True)
class Mutant:
    """One change: its line, its kind, and the file's text with it."""

    line: int
    kind: str
    before: str
    after: str
    text: str


def places(text: str) -> Iterator[tuple[int, str]]:
    """Yield every possible change to a file: the number of its node, and its kind."""
    tree = ast.parse(text)
    quiet = _left_alone(tree)
    for number, node in enumerate(ast.walk(tree)):
        if id(node) not in quiet:
            yield from ((number, kind) for kind in _kinds(node))


def mutant(text: str, number: int, kind: str) -> Mutant:
    """The mutant of one of the `places`."""
    tree = ast.parse(text)
    node = next(one for place, one in enumerate(ast.walk(tree)) if place == number)
    line, before = node.lineno, ast.unparse(node)
    after = _change(node, kind)
    return Mutant(line=line, kind=kind, before=before, after=after, text=ast.unparse(ast.fix_missing_locations(tree)))


def _left_alone(tree: ast.Module) -> set[int]:
    """Ids of the nodes whose changes no test could catch."""
    found: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found += node.decorator_list
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.returns)
        if isinstance(node, ast.arg):
            found.append(node.annotation)
        if isinstance(node, ast.AnnAssign):
            found.append(node.annotation)
        if isinstance(node, (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.JoinedStr)):
            found.append(node)
        if isinstance(node, ast.Expr) and (
            isinstance(node.value, ast.Constant) or ast.unparse(node.value).startswith(QUIET)
        ):
            found.append(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found.append(node)
    return {id(part) for node in found if node is not None for part in ast.walk(node)}


def _kinds(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        return ["flip a comparison"]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return ["add one to a constant"]
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        return ["negate a constant"]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ["drop a not"]
    if isinstance(node, ast.BoolOp):
        return ["swap and with or", "drop the last condition"]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return ["change an operator"]
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        return ["return None"]
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)):
        return ["delete a statement"]
    if isinstance(node, ast.If) and not node.orelse:
        return ["skip a branch"]
    return []


def _change(node: ast.AST, kind: str) -> str:  # noqa: C901  (one case per kind)
    """Change `node` in place and return its new text."""
    if isinstance(node, ast.Compare):
        node.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    elif isinstance(node, ast.UnaryOp):
        _replace(node, ast.Call(func=ast.Name("bool"), args=[node.operand], keywords=[]))
    elif isinstance(node, ast.BoolOp) and kind == "swap and with or":
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.BoolOp):
        node.values = node.values[:-1]
        if len(node.values) == 1:
            _replace(node, node.values[0])
    elif isinstance(node, ast.BinOp):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Return):
        node.value = ast.Constant(None)
    elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)):
        _replace(node, ast.Pass())
    elif isinstance(node, ast.If):
        node.test = ast.Constant(False)
    return ast.unparse(node)


def _replace(node: ast.AST, other: ast.AST) -> None:
    """Turn `node` into `other` in place."""
    place = {name: getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
    other = copy.copy(other)
    node.__class__ = other.__class__
    node.__dict__.clear()
    node.__dict__.update({**place, **{name: getattr(other, name, None) for name in other._fields}})
