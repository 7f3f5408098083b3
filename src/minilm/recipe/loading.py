"""Loads recipes from YAML files and overrides, and writes them back as text.

In: a path and `dotted.key=value` overrides.
Out: `Loaded`, with the origin of every value; `resolved_yaml` writes text that loads as an equal recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeGuard, TypeVar, cast, get_type_hints, overload

from pydantic import BaseModel, ValidationError

from minilm.errors import UsageError
from minilm.files.checked import input_mark
from minilm.recipe.distill import ChainRecipe, Distillation, DistillRecipe
from minilm.recipe.finetune import FinetuneRecipe
from minilm.recipe.overrides import apply_override
from minilm.recipe.problems import first_problem, location_of
from minilm.recipe.sections import RunRecipe, field_names
from minilm.recipe.stages import has_stages, spread_common
from minilm.recipe.strict_yaml import Document, Keys, describe, dump_scalar, read_document

Recipe = DistillRecipe | ChainRecipe | FinetuneRecipe
R = TypeVar("R", bound=RunRecipe, covariant=True)
KINDS: Mapping[str, type[BaseModel]] = {"distill": DistillRecipe, "finetune": FinetuneRecipe}


@dataclass(frozen=True, kw_only=True)
class Loaded(Generic[R]):
    """A recipe and the origin of each of its values.

    Attributes:
        recipe: the validated recipe.
        origins: dotted key -> "default", "file.yaml:12" or "--set".
    """

    recipe: R
    origins: dict[str, str]


@overload
def load_recipe(path: Path | str, overrides: Sequence[str] = ...) -> Loaded[Recipe]: ...
@overload
def load_recipe(path: Path | str, overrides: Sequence[str] = ..., *, kind: type[R]) -> Loaded[R]: ...
def load_recipe(
    path: Path | str, overrides: Sequence[str] = (), *, kind: type[R] | None = None
) -> Loaded[Recipe] | Loaded[R]:
    """Read a recipe, apply overrides and validate it.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value`, applied in order; list items are addressed by index, `students.0.init=layers`.
        kind: the expected kind of recipe, `Distillation` for one with or without stages; None accepts any.

    Raises:
        UsageError: the file or an override is invalid, or the recipe is of another kind; the message is one line and
            names the location.
    """
    document = read_document(Path(path))
    set_keys = [apply_override(document.value, override) for override in overrides]
    schema = _schema(document, kind, set_keys)
    if schema is ChainRecipe:
        spread_common(document, set_keys)
    try:
        recipe = cast("Recipe", schema.model_validate(document.value))
    except ValidationError as error:
        raise UsageError(first_problem(error, document, set_keys, schema)) from None
    return Loaded(recipe=recipe, origins=_origins(recipe, document, set_keys))


def _schema(document: Document, wanted: type[BaseModel] | None, set_keys: Sequence[Keys]) -> type[BaseModel]:
    """The schema of the file's `kind`; a missing or non-text kind is left for the schema to report."""
    found = document.value.get("kind")
    location = f"{location_of(('kind',), document, set_keys)}: kind"
    if isinstance(found, str) and found not in KINDS:
        raise UsageError(f"{location}: found {describe(found)}, expected {' or '.join(map(repr, KINDS))}")
    stated = KINDS[found] if isinstance(found, str) else None
    if wanted is not None and stated is not None and not issubclass(stated, wanted):
        raise UsageError(f"{location}: this is a recipe for `minilm {found}`: run it with that command")
    schema = stated or (FinetuneRecipe if wanted is FinetuneRecipe else DistillRecipe)
    is_chain = schema is DistillRecipe and wanted in (Distillation, None) and has_stages(document.value)
    return ChainRecipe if is_chain else schema


def resolved_yaml(loaded: Loaded[RunRecipe]) -> str:
    """Write every value of a recipe with its origin; loading the text yields an equal recipe."""
    lines: list[str] = []
    _write_section(loaded.recipe, (), lines, loaded.origins)
    return "\n".join(lines) + "\n"


def flat_values(recipe: RunRecipe) -> dict[str, object]:
    """All values by dotted key, in their JSON form."""
    return {_dotted(keys): list(value) if isinstance(value, tuple) else value for keys, value, _ in _leaves(recipe, ())}


def input_names(recipe: RunRecipe) -> dict[str, list[str]]:
    """What a recipe reads: the names of files, folders and models by dotted key, none where a key is not set."""
    found = {}
    for keys, value, hint in _leaves(recipe, ()):
        names = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        mark = input_mark(hint)
        if mark is not None and not set(names) & set(mark.words):
            found[_dotted(keys)] = list(names)
    return found


def _origins(recipe: RunRecipe, document: Document, set_keys: Sequence[Keys]) -> dict[str, str]:
    name = Path(document.source).name
    origins = {}
    for keys, _, _ in _leaves(recipe, ()):
        if any(keys[: len(written)] == written or written[: len(keys)] == keys for written in set_keys):
            origin = "--set"
        elif keys in document.lines:
            origin = f"{name}:{document.lines[keys]}"
        else:
            origin = "default"
        origins[_dotted(keys)] = origin
    return origins


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


def _leaves(section: object, keys: Keys) -> list[tuple[Keys, object, object]]:
    """All values of a section in schema order, with their annotations; a list of plain values is one leaf."""
    leaves: list[tuple[Keys, object, object]] = []
    hints = get_type_hints(type(section), include_extras=True)
    for name in field_names(section):
        value = getattr(section, name)
        if field_names(value):
            leaves += _leaves(value, (*keys, name))
        elif _is_section_list(value):
            for index, item in enumerate(value):
                leaves += _leaves(item, (*keys, name, index))
        else:
            leaves.append(((*keys, name), value, hints[name]))
    return leaves


def _is_section_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list) and bool(value) and bool(field_names(value[0]))


def _write_section(section: object, keys: Keys, lines: list[str], origins: dict[str, str]) -> None:
    indent = "  " * len(keys)
    for name in field_names(section):
        value = getattr(section, name)
        here = (*keys, name)
        if field_names(value):
            lines.append(f"{indent}{name}:")
            _write_section(value, here, lines, origins)
        elif _is_section_list(value):
            lines.append(f"{indent}{name}:")
            for index, item in enumerate(value):
                first = len(lines)
                _write_section(item, (*here, index), lines, origins)
                lines[first] = f"{indent}  - {lines[first].lstrip()}"
        else:
            lines.append(f"{indent}{name}: {_flow(value)}  # from {origins[_dotted(here)]}")


def _flow(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dump_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    assert value is None or isinstance(value, (str, int, float))
    return dump_scalar(value)
