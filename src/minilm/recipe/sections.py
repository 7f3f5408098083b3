"""What every kind of recipe shares: strict sections, the types of their values, how a run is optimized.

In: plain values from YAML, with nothing coerced: text is not a number, a number is not text.
Out: frozen pydantic models; a broken rule raises ValueError inside pydantic, `problems.py` says where.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from minilm.files.checked import Count as Count
from minilm.files.checked import PositiveInt as PositiveInt
from minilm.files.checked import Share as Share
from minilm.files.checked import Text as Text
from minilm.model.precision import Precision
from minilm.recipe.strict_yaml import describe

Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _pair(value: object) -> object:
    """YAML has lists only; two values are a list of two."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"found {describe(value)}, expected a list of two numbers")
    return tuple(value)


class Section(BaseModel):
    """What all sections share: unknown keys are errors, nothing is coerced, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class OptimizationSection(Section):
    """How any run is trained and how often it is saved; `batch_size` counts documents per step."""

    batch_size: PositiveInt
    tokens_per_batch: PositiveInt = 16384
    learning_rate: Annotated[float, Field(gt=0)]
    adam_betas: Annotated[tuple[Share, Share], BeforeValidator(_pair)] = (0.9, 0.999)
    adam_eps: Annotated[float, Field(gt=0)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    attention_dropout: Share = 0.0
    precision: Precision = "fp32"
    log_every: PositiveInt = 10
    eval_every: Count = 0
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    max_bad_steps: Count = 10


def field_names(section: object) -> tuple[str, ...]:
    """The keys of a section, in order: a pydantic model or a dataclass, or the class of one; none for other values."""
    cls = section if isinstance(section, type) else type(section)
    if issubclass(cls, BaseModel):
        return tuple(cls.model_fields)
    return tuple(field.name for field in fields(cls)) if is_dataclass(cls) else ()
