"""Dataclasses whose values are checked against their annotations: settings from Python, objects of JSON files.

In: a dataclass; its values from Python, or the object of a JSON file. Out: an instance whose values have the annotated
types and ranges, or one error that names the field, what was found and what was expected.

Annotations are bool, int, float, str, Literal, `X | None`, Sequence or tuple of one type, another dataclass, and
Annotated with Ge, Gt, Le, Lt, MinLen or MaxLen of `annotated_types`; pydantic checks recipes against the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from collections.abc import Sequence as AbstractSequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from minilm.errors import DataError, SettingsError, UsageError

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Text = Annotated[str, MinLen(1)]


@dataclass(frozen=True)
class Input:
    """Marks what names a file, folder or model that is read, where it is none of some `words`; see `InputPath`."""

    words: tuple[str, ...] = ()


InputPath = Annotated[Text, Input()]

_SCALARS: Mapping[object, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
    NoneType: (NoneType, "None"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A group of settings: checked when created, with lists as tuples; immutable.

    Subclasses check rules between fields in `__post_init__`, which raises SettingsError.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    def __post_init__(self) -> None:
        """Raise SettingsError for a value of the wrong type or out of range."""
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            if expected := mismatch(value, hint):
                raise SettingsError(f"{name} is {value!r}; expected {expected}")
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))


def from_options(cls: type[T], options: Mapping[str, object]) -> T:
    """Build settings from keyword options.

    Raises:
        UsageError: an option is unknown, or a value is not allowed.
    """
    known = list(_hints(cls))
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
            raise UsageError(f"unknown option {name!r}: {hint}")
    return cls(**options)


def from_json(cls: type[T], values: Mapping[str, object], *, where: str | Path, remedy: str) -> T:
    """Build a dataclass from a JSON object: lists become tuples, nested objects the dataclasses of their fields.

    Args:
        cls: the dataclass.
        values: the object.
        where: the file, and the location within it.
        remedy: what the user can do; ends each message.

    Raises:
        DataError: a key is unknown or missing, a value has the wrong type or is out of range, or a rule between
            fields is violated.
    """
    hints = _hints(cls)
    required = [field.name for field in fields(cls) if field.default is field.default_factory is MISSING]  # type: ignore[arg-type]
    if unknown := [name for name in values if name not in hints]:
        raise DataError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(hints)}; {remedy}")
    if missing := [name for name in required if name not in values]:
        raise DataError(f"{where}: the key {missing[0]!r} is missing; {remedy}")
    converted = {}
    for name, value in values.items():
        value = _converted(value, hints[name], where=f"{where}: {name}", remedy=remedy)
        if expected := mismatch(value, hints[name]):
            raise DataError(f"{where}: {name} is {values[name]!r:.60}; expected {expected}; {remedy}")
        converted[name] = value
    try:
        return cls(**converted)
    except UsageError as error:
        raise DataError(f"{where}: {error}; {remedy}") from None


def input_mark(hint: object) -> Input | None:
    """The mark in the annotation of a name that is read, or of several; else None."""
    if isinstance(hint, Input):
        return hint
    return next(filter(None, map(input_mark, get_args(hint))), None)


def mismatch(value: object, hint: object) -> str | None:
    """Return what was expected if `value` does not match the annotation, else None."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        broken = (_broken(value, rule) for rule in parts[1:])
        return mismatch(value, parts[0]) or next((expected for expected in broken if expected), None)
    if origin in (Union, UnionType):
        found = [mismatch(value, part) for part in parts]
        return None if None in found else " or ".join(filter(None, found))
    if origin is Literal:
        return None if isinstance(value, str) and value in parts else " or ".join(map(repr, parts))
    if origin in (AbstractSequence, tuple):
        return _sequence_mismatch(value, parts[0])
    if isinstance(hint, type) and is_dataclass(hint):
        return None if isinstance(value, hint) else "an object"
    kind, expected = _SCALARS[hint]
    if not isinstance(value, kind) or (isinstance(value, bool) and hint is not bool):
        return expected
    return "a finite number" if isinstance(value, float) and not math.isfinite(value) else None


def _sequence_mismatch(value: object, item: object) -> str | None:
    if not isinstance(value, (list, tuple)):
        return "a list"
    return next((f"a list, each item {expected}" for one in value if (expected := mismatch(one, item))), None)


def _broken(value: Any, rule: object) -> str | None:  # noqa: ANN401  type already checked
    if value is None:
        return None
    if isinstance(rule, Ge) and not value >= rule.ge:
        return f"{rule.ge} or more"
    if isinstance(rule, Gt) and not value > rule.gt:
        return f"more than {rule.gt}"
    if isinstance(rule, Le) and not value <= rule.le:
        return f"{rule.le} or less"
    if isinstance(rule, Lt) and not value < rule.lt:
        return f"less than {rule.lt}"
    if isinstance(rule, MinLen) and len(value) < rule.min_length:
        return "a text that is not empty" if isinstance(value, str) else f"{rule.min_length} or more items"
    if isinstance(rule, MaxLen) and len(value) > rule.max_length:
        return f"at most {rule.max_length} items"
    return None


def _converted(value: object, hint: object, *, where: str, remedy: str) -> object:
    """Convert lists to tuples and objects to the dataclass of the annotation; return anything else unchanged."""
    if isinstance(value, list) and get_origin(hint) in (AbstractSequence, tuple):
        item = get_args(hint)[0]
        return tuple(
            _converted(one, item, where=f"{where}[{number}]", remedy=remedy) for number, one in enumerate(value)
        )
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict) and isinstance(hint, type) and is_dataclass(hint):
        return from_json(hint, value, where=where, remedy=remedy)
    return value


def _hints(cls: type) -> dict[str, object]:
    """The annotations of a dataclass's fields."""
    return _cached_hints(cast("Hashable", cls))


@cache
def _cached_hints(cls: Hashable) -> dict[str, object]:
    assert isinstance(cls, type)
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}
