"""What every kind of recipe shares: strict sections, the types of their values, how a run is optimized.

In: plain values from YAML, with nothing coerced: text is not a number, a number is not text.
Out: frozen pydantic models and dataclasses; a broken rule raises ValueError inside pydantic, `problems.py` says where.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from minilm.files.checked import Count as Count
from minilm.files.checked import InputPath as InputPath
from minilm.files.checked import PositiveInt as PositiveInt
from minilm.files.checked import Settings
from minilm.files.checked import Share as Share
from minilm.files.checked import Text as Text
from minilm.recipe.optimization import OptimizationSettings

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """Base class of sections: unknown keys are errors, values are not coerced, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RunRecipe(Section):
    """What every recipe has: its kind, a name, a seed, and where the run folder goes."""

    kind: str
    name: Text
    seed: Seed = 42
    out: Text


@dataclass(frozen=True, kw_only=True)
class DataclassSection(Settings):
    """A section that is a dataclass, so that rooms without pydantic share it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept a mapping: of strict dataclasses pydantic accepts instances only. Their values stay strict."""
        schema = handler(source)
        cast("dict[str, object]", handler.resolve_ref_schema(schema))["strict"] = False
        return schema


@dataclass(frozen=True, kw_only=True)
class TrainingSection(OptimizationSettings, DataclassSection):
    """How a run is trained; `batch_size` counts examples (documents, pairs) per step."""

    batch_size: PositiveInt
    tokens_per_batch: PositiveInt = 16384
    attention_dropout: Share = 0.0


def field_names(section: object) -> tuple[str, ...]:
    """Keys of a section in order. Accepts a pydantic model, a dataclass or their classes; empty for other values."""
    cls = section if isinstance(section, type) else type(section)
    if issubclass(cls, BaseModel):
        return tuple(cls.model_fields)
    return tuple(field.name for field in fields(cls)) if is_dataclass(cls) else ()
