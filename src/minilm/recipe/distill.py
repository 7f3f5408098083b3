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
from minilm.files.checked import Input
from minilm.model.config import PRESETS
from minilm.recipe.sections import Count, InputPath, PositiveInt, RunRecipe, Section, Text, TrainingSection

Objective = Literal["relations", "hidden", "mlm"]
PairName = Literal[
    "query-query",
    "query-key",
    "query-value",
    "key-query",
    "key-key",
    "key-value",
    "value-query",
    "value-key",
    "value-value",
]
PositiveFloat = Annotated[float, Field(gt=0)]
MASKED_SHARE = 0.15
"""Of the tokens that a masked language model predicts, as in BERT."""
_OBJECTIVES_WITH: Mapping[str, tuple[Objective, ...]] = {
    **dict.fromkeys(("version", "pairs", "relation_heads"), ("relations",)),
    "layers": ("relations", "hidden"),
    "labels": ("mlm",),
}
"""Keys of the loss that do not apply to every objective."""
SIZES = ("num_layers", "hidden_size", "num_heads", "intermediate_size")
"""What the shape of a student consists of; the rest comes from the teacher's vocabulary."""
STARTS = ("random", "layers")
"""Where the weights of a student start, if not with those of a model."""


OF_INPUTS: Mapping[str, object] = {
    "field": CorpusSettings.field,
    "workers": CorpusSettings.workers,
    "max_bad_rows": CorpusSettings.max_bad_rows,
}
"""Keys that say how texts are read, with their defaults."""


class DataSection(Section):
    """Training data: a folder created by `minilm corpus build`, or text files."""

    corpus: InputPath | None = None
    inputs: list[InputPath] = Field(default_factory=list)
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
        ignored = [key for key, default in OF_INPUTS.items() if getattr(self, key) != default]
        if self.corpus is not None and ignored:
            raise ValueError(f"found {', '.join(ignored)} with a corpus, whose texts are tokenized already: remove it")
        return self


class TeacherSection(Section):
    """The teacher: a model folder, or `embedded`; layers are counted from 1, null is that of the papers."""

    model: InputPath
    layer: PositiveInt | Literal["last"] | None = None


class CacheSection(Section):
    """The teacher's queries, keys and values, stored for further epochs and runs; null: beside the corpus."""

    precision: Literal["bf16", "int8"] = "bf16"
    max_gib: Annotated[float, Field(gt=0)] = 50.0
    folder: InputPath | None = None


class StudentSection(Section):
    """One student: its shape and where its weights start.

    Sizes that are not given follow from the teacher, see `student_shape.py`. `init` is `random`, `layers` (embeddings
    and layers of the teacher) or a model folder, whose training is continued.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "student"
    preset: Literal["L12-H384", "L6-H384", "L6-H768", "BERT-Base"] | None = None
    num_layers: PositiveInt | None = None
    hidden_size: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    init: Annotated[Text, Input(words=STARTS)] = "random"
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
    """What a student learns: relations of v1 (attention, values) or v2 (any pairs), hidden states, or masked tokens.

    `layers` are those of the teacher that the student's are compared with: its distilled layer with the last one, all
    layers at even distances, or a list with one for each layer of the student.
    """

    objective: Objective = "relations"
    version: Literal["v1", "v2"] = "v2"
    pairs: Annotated[dict[PairName, PositiveFloat], Field(min_length=1)] | None = None
    relation_heads: PositiveInt | None = None
    layers: Literal["last", "all"] | Annotated[list[PositiveInt], Field(min_length=1)] = "last"
    labels: Literal["hard", "soft"] = "hard"
    mask_tokens: Annotated[float, Field(gt=0, lt=1)] | None = None
    normalization: Literal["sequence", "token"] = "sequence"

    @property
    def layer_rule(self) -> Literal["v1", "v2"]:
        """Whose choice of the teacher's layer is the default: that of v2 is for its relations only."""
        return self.version if self.objective == "relations" else "v1"

    @property
    def compares_attention(self) -> bool:
        """Whether the teacher's own attention is needed, with all that is in it."""
        is_v1 = self.objective == "relations" and self.version == "v1"
        return is_v1 and (self.pairs is None or "query-key" in self.pairs)

    @property
    def has_teacher(self) -> bool:
        """Whether the teacher computes anything while the student trains."""
        return self.objective != "mlm" or self.labels == "soft"

    @property
    def masked_share(self) -> float | None:
        """The share of tokens that are masked, if any."""
        return self.mask_tokens or (MASKED_SHARE if self.objective == "mlm" else None)

    @model_validator(mode="after")
    def _keys_belong_to_the_objective(self) -> LossSection:
        for key, objectives in _OBJECTIVES_WITH.items():
            if self.objective not in objectives and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"found {key} with objective {self.objective}, which does not use it: remove it or use objective "
                    f"{' or '.join(objectives)}"
                )
        return self

    @model_validator(mode="after")
    def _v1_has_its_own_pairs_and_heads(self) -> LossSection:
        if self.version == "v1" and self.relation_heads is not None:
            raise ValueError(
                "found relation_heads with version v1, which uses the attention heads: remove it or use v2"
            )
        other = [pair for pair in self.pairs or () if pair not in ("query-key", "value-value")]
        if self.version == "v1" and other:
            raise ValueError(
                f"found the pair {other[0]} with version v1, which compares query-key and value-value: remove it or "
                "use v2"
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


class ProbeSection(Section):
    """A GLUE task that a copy of each student is briefly fine-tuned on every `every` steps, and after the last one.

    It shows what a student has learned so far, and changes nothing in the run.
    """

    task: Text
    train: InputPath
    dev: InputPath
    every: PositiveInt
    max_rows: PositiveInt = 2000
    steps: PositiveInt = 100
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4


class Distillation(RunRecipe):
    """What a distillation and a chain of them share."""

    kind: Literal["distill"]
    data: DataSection
    teacher: TeacherSection
    cache: CacheSection | None = None


class DistillRecipe(Distillation):
    """The complete definition of a distillation run."""

    students: Annotated[list[StudentSection], Field(min_length=1)]
    loss: LossSection = Field(default_factory=LossSection)
    train: TrainSection
    probe: ProbeSection | None = None

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
    probe: ProbeSection | None = None

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
