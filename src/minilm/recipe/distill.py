"""The sections of a distillation recipe: every key, its type, its default, and the constraints between keys.

In: plain values from YAML, without coercion: text is not a number, a number is not text.
Out: frozen pydantic models. A violated constraint raises ValueError inside pydantic; `problems.py` adds the location.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from minilm.corpus.settings import CorpusSettings
from minilm.errors import SettingsError
from minilm.model.config import PRESETS, EncoderConfig
from minilm.recipe.sections import Count, PositiveInt, RunRecipe, Section, Text, TrainingSection

_SIZES = ("num_layers", "hidden_size", "num_heads", "intermediate_size")


class DataSection(Section):
    """Training data: a folder created by `minilm corpus build`, or text files."""

    corpus: Text | None = None
    inputs: list[Text] = Field(default_factory=list)
    field: Text = CorpusSettings.field
    max_tokens: Annotated[int, Field(ge=3)] = CorpusSettings.max_tokens
    heldout_documents: Count = 256
    workers: PositiveInt = CorpusSettings.workers
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = CorpusSettings.max_bad_rows

    @model_validator(mode="after")
    def _one_source(self) -> DataSection:
        if self.corpus is not None and self.inputs:
            raise ValueError("found both corpus and inputs, expected one: set the other to null or []")
        if self.corpus is None and not self.inputs:
            raise ValueError("found neither corpus nor inputs: set one to a corpus folder or a list of text files")
        return self


class TeacherSection(Section):
    """The teacher: a model folder, or `embedded`; layers are counted from 1."""

    model: Text
    layer: PositiveInt | Literal["last"] = "last"


class StudentSection(Section):
    """One student: its shape (a preset or four sizes) and the initialization of its weights."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "student"
    preset: Literal["L12-H384", "L6-H384", "L6-H768", "BERT-Base"] | None = None
    num_layers: PositiveInt | None = None
    hidden_size: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    init: Literal["random", "layers"] = "random"
    teacher_layers: list[PositiveInt] = Field(default_factory=list)

    @model_validator(mode="after")
    def _shape_is_complete(self) -> StudentSection:
        given = [name for name in _SIZES if getattr(self, name) is not None]
        missing = [name for name in _SIZES if name not in given]
        if self.preset is not None and given:
            raise ValueError(f"found both preset and {', '.join(given)}, expected only one of them")
        if self.preset is None and missing:
            raise ValueError(
                f"the shape lacks {', '.join(missing)}: set them, or preset to one of {', '.join(PRESETS)}"
            )
        if self.hidden_size and self.num_heads and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        return self

    @model_validator(mode="after")
    def _init_is_complete(self) -> StudentSection:
        if self.init == "random" and self.teacher_layers:
            raise ValueError("found teacher_layers with init random: set init to layers, or remove teacher_layers")
        if self.init == "layers" and not self.teacher_layers:
            raise ValueError("init layers requires teacher_layers, for example [2, 4, 6, 8, 10, 12]")
        depth = self.shape.num_layers
        if self.init == "layers" and len(self.teacher_layers) != depth:
            raise ValueError(
                f"found {len(self.teacher_layers)} teacher_layers, expected one for each of {depth} layers"
            )
        return self

    @property
    def shape(self) -> EncoderConfig:
        """The configuration from the preset or the sizes; it does not yet contain the teacher's vocabulary."""
        if self.preset is not None:
            return EncoderConfig.preset(self.preset)
        return EncoderConfig(**{name: getattr(self, name) for name in _SIZES})


class LossSection(Section):
    """The relations to distill: v1 (attention, values) or v2 (queries, keys, values)."""

    version: Literal["v1", "v2"] = "v2"
    relation_heads: PositiveInt | None = None
    normalization: Literal["sequence", "token"] = "sequence"

    @property
    def num_relation_heads(self) -> int:
        """R of v2; defaults to 48, as for base-size teachers."""
        return self.relation_heads or 48

    @model_validator(mode="after")
    def _heads_belong_to_v2(self) -> LossSection:
        if self.version == "v1" and self.relation_heads is not None:
            raise ValueError(
                "found relation_heads with version v1, which uses the attention heads: remove it or use v2"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class TrainSection(TrainingSection):
    """Optimization of a distillation run; its length is given in steps."""

    steps: PositiveInt
    warmup_steps: Count = 0

    def __post_init__(self) -> None:
        """Raise SettingsError also for a warmup that is longer than the run."""
        super().__post_init__()
        if self.warmup_steps > self.steps:
            raise SettingsError(f"warmup_steps is {self.warmup_steps}, expected at most steps ({self.steps})")


class DistillRecipe(RunRecipe):
    """The complete definition of a distillation run."""

    kind: Literal["distill"]
    data: DataSection
    teacher: TeacherSection
    students: Annotated[list[StudentSection], Field(min_length=1)]
    loss: LossSection = Field(default_factory=LossSection)
    train: TrainSection

    @model_validator(mode="after")
    def _sections_agree(self) -> DistillRecipe:
        twice = [name for name, count in Counter(s.name for s in self.students).items() if count > 1]
        if twice:
            raise ValueError(f"students: found the name {twice[0]!r} more than once, expected unique names")
        if self.data.max_tokens > self.train.tokens_per_batch:
            raise ValueError(
                f"train.tokens_per_batch is {self.train.tokens_per_batch}, expected at least data.max_tokens"
                f" ({self.data.max_tokens}): a document must fit into a batch"
            )
        heads = self.loss.num_relation_heads
        for student in self.students if self.loss.version == "v2" else ():
            width = student.shape.hidden_size
            if width % heads:
                raise ValueError(
                    f"loss.relation_heads {heads} does not divide hidden_size {width} of student"
                    f" {student.name!r}: use a common divisor of the hidden sizes of teacher and students"
                )
        return self
