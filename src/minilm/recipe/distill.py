"""The sections of a distillation recipe: every key, its type, its default, and the constraints between keys.

In: plain values from YAML, without coercion: text is not a number, a number is not text.
Out: frozen pydantic models. A violated constraint raises ValueError inside pydantic; `problems.py` adds the location.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from minilm.corpus.settings import CorpusSettings
from minilm.errors import SettingsError
from minilm.model.config import PRESETS
from minilm.recipe.sections import Count, PositiveInt, RunRecipe, Section, Text, TrainingSection

SIZES = ("num_layers", "hidden_size", "num_heads", "intermediate_size")
"""What the shape of a student consists of; the rest comes from the teacher's vocabulary."""


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
    """The teacher: a model folder, or `embedded`; layers are counted from 1, null is that of the papers."""

    model: Text
    layer: PositiveInt | Literal["last"] | None = None


class StudentSection(Section):
    """One student: its shape and where its weights start.

    Sizes that are not given follow from the teacher, see `distill/shapes.py`. `init` is `random`, `layers` (embeddings
    and layers of the teacher) or a model folder, whose training is continued.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "student"
    preset: Literal["L12-H384", "L6-H384", "L6-H768", "BERT-Base"] | None = None
    num_layers: PositiveInt | None = None
    hidden_size: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    init: Text = "random"
    teacher_layers: list[PositiveInt] = Field(default_factory=list)

    @property
    def sizes(self) -> Mapping[str, int]:
        """The sizes that are given, by a preset or one by one."""
        source = self if self.preset is None else PRESETS[self.preset]
        return {name: size for name in SIZES if (size := getattr(source, name)) is not None}

    @model_validator(mode="after")
    def _shape_is_one(self) -> StudentSection:
        given = [name for name in SIZES if getattr(self, name) is not None]
        if self.preset is not None and given:
            raise ValueError(f"found both preset and {', '.join(given)}, expected only one of them")
        if self.teacher_layers and self.init != "layers":
            raise ValueError(
                f"found teacher_layers with init {self.init}: set init to layers, or remove teacher_layers"
            )
        depth = self.sizes.get("num_layers")
        if self.teacher_layers and depth not in (None, len(self.teacher_layers)):
            raise ValueError(
                f"found {len(self.teacher_layers)} teacher_layers, expected one for each of {depth} layers"
            )
        return self


class LossSection(Section):
    """The relations to distill: v1 (attention, values) or v2 (queries, keys, values)."""

    version: Literal["v1", "v2"] = "v2"
    relation_heads: PositiveInt | None = None
    normalization: Literal["sequence", "token"] = "sequence"

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


class Distillation(RunRecipe):
    """What a distillation and a chain of them share."""

    kind: Literal["distill"]
    data: DataSection
    teacher: TeacherSection


class DistillRecipe(Distillation):
    """The complete definition of a distillation run."""

    students: Annotated[list[StudentSection], Field(min_length=1)]
    loss: LossSection = Field(default_factory=LossSection)
    train: TrainSection

    @model_validator(mode="after")
    def _sections_agree(self) -> DistillRecipe:
        _require_unique([student.name for student in self.students])
        _require_room(self.data, self.train, "train")
        return self


class StageSection(Section):
    """One stage of a chain: what it trains, and how; `stages.py` fills in what the whole recipe has in common."""

    students: Annotated[list[StudentSection], Field(min_length=1)]
    loss: LossSection = Field(default_factory=LossSection)
    train: TrainSection


class ChainRecipe(Distillation):
    """Several distillations, one after the other: the student of a stage is the teacher of the next one."""

    stages: Annotated[list[StageSection], Field(min_length=1)]

    @model_validator(mode="after")
    def _stages_agree(self) -> ChainRecipe:
        _require_unique([student.name for stage in self.stages for student in stage.students])
        for number, stage in enumerate(self.stages):
            _require_room(self.data, stage.train, f"stages.{number}.train")
            if len(stage.students) > 1 and stage is not self.stages[-1]:
                raise ValueError(
                    f"stages.{number}.students: found {len(stage.students)} students, expected one: it is the teacher "
                    "of the next stage; only the last stage may have several"
                )
        return self


def _require_unique(names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"students: found the name {twice[0]!r} more than once, expected unique names")


def _require_room(data: DataSection, train: TrainSection, where: str) -> None:
    if data.max_tokens > train.tokens_per_batch:
        raise ValueError(
            f"{where}.tokens_per_batch is {train.tokens_per_batch}, expected at least data.max_tokens"
            f" ({data.max_tokens}): a document must fit into a batch"
        )
