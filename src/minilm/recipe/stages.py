"""The stages of a chain: what a recipe says once for all of them becomes part of each.

In: the raw values of a recipe with `stages`, before they are validated; line numbers and overrides.
Out: the same values, modified in place: `loss` and `train` are below each stage, under what the stage itself says.
"""

from __future__ import annotations

from collections.abc import Mapping

from minilm.errors import UsageError
from minilm.recipe.problems import location_of
from minilm.recipe.strict_yaml import Document, Keys, describe

_COMMON = ("loss", "train")


def has_stages(tree: Mapping[str, object]) -> bool:
    """Whether a recipe is a chain."""
    return tree.get("stages") is not None


def spread_common(document: Document, set_keys: list[Keys]) -> None:
    """Move the common sections below every stage; lines and overrides of a value move with it.

    Raises:
        UsageError: there are students outside of the stages, or a common section is not a section or has a value that
            no stage uses.
    """
    if document.value.get("students") is not None:
        raise UsageError(
            f"{location_of(('students',), document, set_keys)}: found both students and stages, expected one of them: "
            "give each stage its students"
        )
    for name in _COMMON:
        common = document.value.pop(name, None)
        if common is None:
            continue
        if not isinstance(common, dict):
            where = location_of((name,), document, set_keys)
            raise UsageError(f"{where}: {name}: found {describe(common)}, expected a section (key: value lines)")
        _require_used(name, common, document, set_keys)
        stages = document.value["stages"]
        for number, stage in enumerate(stages if isinstance(stages, list) else []):
            if isinstance(stage, dict):
                _spread_into(stage, ("stages", number), name, common, document, set_keys)


def _spread_into(
    stage: dict[str, object],
    here: Keys,
    name: str,
    common: Mapping[str, object],
    document: Document,
    set_keys: list[Keys],
) -> None:
    own = stage.get(name)
    if own is not None and not isinstance(own, dict):
        return  # the schema reports it
    own = own or {}
    stage[name] = {**common, **own}
    for key in common.keys() - own.keys():
        moved: Keys = (*here, name, key)
        if any(written[:2] == (name, key)[: len(written)] for written in set_keys):
            set_keys.append(moved)
        elif (name, key) in document.lines:
            document.lines[moved] = document.lines[name, key]


def _require_used(name: str, common: Mapping[str, object], document: Document, set_keys: list[Keys]) -> None:
    """Require that a stage uses each common value: one that all of them replace would have no effect.

    Overrides may replace what the file has in common.
    """
    stages = document.value["stages"]
    sections = [stage.get(name) for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
    for key in common:
        is_set = any(written[:2] == (name, key)[: len(written)] for written in set_keys)
        replaced = any(written[:1] == ("stages",) and written[2:4] in ((name, key), (name,)) for written in set_keys)
        everywhere = bool(sections) and all(isinstance(section, dict) and key in section for section in sections)
        if everywhere and (is_set or not replaced):
            raise UsageError(
                f"{location_of((name, key), document, set_keys)}: {name}.{key} has no effect, because every stage has "
                f"its own: remove it, or change stages.N.{name}.{key}"
            )
