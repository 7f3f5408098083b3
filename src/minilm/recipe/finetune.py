"""The sections of a fine-tuning recipe: task, training, and a sweep over settings and seeds.

In: plain values from YAML, without coercion: text is not a number, a number is not text.
Out: frozen pydantic models; the task is one of several dataclasses, selected by `task.kind`.
A violated constraint raises ValueError inside pydantic; `problems.py` adds the location.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import Field, model_validator

from minilm.errors import SettingsError
from minilm.recipe.distill import STARTS, StudentSection
from minilm.recipe.sections import (
    Count,
    DataclassSection,
    InputPath,
    PositiveInt,
    RunRecipe,
    Section,
    Seed,
    Share,
    Text,
    TrainingSection,
)
from minilm.tasks.embed.settings import WHOLE_BATCH, EmbedSettings
from minilm.tasks.rerank.settings import FROM_SCORES, RerankSettings
from minilm.tasks.seq2seq.settings import Seq2SeqSettings
from minilm.tasks.settings import TaskSettings
from minilm.tasks.squad.settings import SquadSettings
from minilm.tasks.text.settings import TextSettings
from minilm.tasks.tokens.settings import TokensSettings

_PositiveFloat = Annotated[float, Field(gt=0)]
_Grid = Annotated[list[_PositiveFloat], Field(min_length=1)]
HeadChoice = Literal["auto", "keep", "fresh"]


@dataclass(frozen=True, kw_only=True)
class TaskFiles(TaskSettings, DataclassSection):
    """The files of a task. Each file of `dev` is scored separately; the first one selects the best checkpoint."""

    train: Annotated[Sequence[InputPath], MinLen(1)]
    dev: Sequence[InputPath] = ()


@dataclass(frozen=True, kw_only=True)
class LabelledSection(DataclassSection):
    """A task with labels.

    `head`: keep the model's own head, aligned with the task's labels by name, or start a fresh one; `auto` keeps it if
    it has the same labels.
    """

    head: HeadChoice = "auto"


@dataclass(frozen=True, kw_only=True)
class TextSection(LabelledSection, TextSettings, TaskFiles):
    """Labeled texts, or a GLUE task selected by name."""


@dataclass(frozen=True, kw_only=True)
class TokensSection(LabelledSection, TokensSettings, TaskFiles):
    """Tagged words, such as named entities."""


@dataclass(frozen=True, kw_only=True)
class SquadSection(SquadSettings, TaskFiles):
    """Extractive question answering."""


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSection(Seq2SeqSettings, TaskFiles):
    """Sequence-to-sequence generation."""


@dataclass(frozen=True, kw_only=True)
class EmbedSection(EmbedSettings, TaskFiles):
    """Text vectors; held-out files have scored pairs."""


@dataclass(frozen=True, kw_only=True)
class RerankSection(LabelledSection, RerankSettings, TaskFiles):
    """Scores of pairs of a query and a text.

    `teacher`: the model whose scores of the training texts are learned, instead of those of the rows; `cache`: folder
    for the scores of teachers, beside the first training file if not given.
    """

    teacher: InputPath | None = None
    cache: InputPath | None = None

    def __post_init__(self) -> None:
        """Raise SettingsError also for a teacher whose scores are not learned."""
        super().__post_init__()
        if self.teacher is not None and self.loss not in FROM_SCORES:
            raise SettingsError(
                f"found teacher with loss {self.loss}, which learns labels; it is for {', '.join(FROM_SCORES)}: remove "
                "it"
            )
        if self.cache is not None and self.teacher is None:
            raise SettingsError("found cache without teacher, whose scores it would hold: remove it")
        if self.teacher is not None and self.score is not None:
            raise SettingsError("found both score and teacher, expected one source of scores: remove one of them")


TaskSection = TextSection | TokensSection | SquadSection | Seq2SeqSection | EmbedSection | RerankSection


@dataclass(frozen=True, kw_only=True)
class FinetuneTrainSection(TrainingSection):
    """Length in epochs, or in `steps` if set; `batch_size` counts examples per step.

    `warmup_steps` overrides `warmup_fraction`. `eval_every` 0 evaluates after each epoch. A run stops after `patience`
    evaluations without improvement; 0 disables early stopping.
    """

    epochs: _PositiveFloat = 3
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    learning_rate: _PositiveFloat = 5e-5
    warmup_fraction: Share = 0.1
    warmup_steps: Count | None = None
    adam_eps: _PositiveFloat = 1e-8
    patience: Count = 0

    def __post_init__(self) -> None:
        """Raise SettingsError also for a warmup that is given twice."""
        super().__post_init__()
        if self.warmup_steps is not None and self.warmup_fraction != FinetuneTrainSection.warmup_fraction:
            raise SettingsError("found both warmup_steps and warmup_fraction, expected only one to give the warmup")

    def num_warmup_steps(self, steps: int) -> int:
        """Warmup steps in a run of `steps` steps."""
        return int(self.warmup_fraction * steps) if self.warmup_steps is None else self.warmup_steps


class SweepSection(Section):
    """Every combination of these values is one run; an omitted key keeps its value in `train`.

    `devices`: devices that run one job at a time each, such as `[cuda:0, cuda:1]`; empty: all GPUs, or one CPU process.
    """

    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    learning_rate: _Grid | None = None
    epochs: _Grid | None = None
    batch_size: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    devices: list[Text] = Field(default_factory=list)

    @model_validator(mode="after")
    def _no_value_twice(self) -> SweepSection:
        for name in ("seeds", "learning_rate", "epochs", "batch_size"):
            values = getattr(self, name) or []
            if len(set(values)) != len(values):
                raise ValueError(f"{name} contains duplicate values: each combination runs only once")
        return self


class FinetuneRecipe(RunRecipe):
    """The complete definition of a fine-tuning run or a sweep.

    `model` is a model folder, a Microsoft `.bin` or `embedded`; `config` and `tokenizer` are for models that do not
    include them; `lowercase` overrides the tokenizer's own setting. `student` is a smaller encoder with the
    vocabulary of `model`, which is trained instead of it: random, or of some of its layers.
    """

    kind: Literal["finetune"]
    model: InputPath
    config: InputPath | None = None
    tokenizer: InputPath | None = None
    lowercase: bool | None = None
    student: StudentSection | None = None
    task: Annotated[TaskSection, Field(discriminator="kind")]
    train: FinetuneTrainSection
    sweep: SweepSection | None = None

    @model_validator(mode="after")
    def _sections_agree(self) -> FinetuneRecipe:
        if self.task.longest > self.train.tokens_per_batch:
            is_pair = isinstance(self.task, Seq2SeqSection)
            what = "the max source, target and pseudo tokens" if is_pair else "task.max_tokens"
            raise ValueError(
                f"train.tokens_per_batch is {self.train.tokens_per_batch}, expected at least {what}"
                f" ({self.task.longest}): an example must fit into a batch"
            )
        if self.student is not None and self.student.init not in STARTS:
            raise ValueError(
                f"student.init is {self.student.init!r}, expected {' or '.join(STARTS)}; to train a model further, "
                "name it in model"
            )
        if isinstance(self.task, EmbedSection):
            _require_several(self.task, self.train, self.sweep)
        if isinstance(self.task, EmbedSection) and self.train.attention_dropout:
            raise ValueError("found train.attention_dropout with task kind embed, which has task.dropout; remove it")
        if isinstance(self.task, RerankSection) and self.train.attention_dropout:
            raise ValueError("found train.attention_dropout with task kind rerank, expected only that of hidden rows")
        if self.train.patience and not self.task.dev:
            raise ValueError("train.patience requires task.dev: early stopping needs held-out data")
        if self.train.steps is not None and self.sweep is not None and self.sweep.epochs:
            raise ValueError(
                "found both train.steps and sweep.epochs: train.steps fixes the length of every run; set one to null"
            )
        return self


def _require_several(task: EmbedSection, train: FinetuneTrainSection, sweep: SweepSection | None) -> None:
    """Raise ValueError for batches of one row with a loss that compares rows."""
    swept = None if sweep is None else sweep.batch_size
    if task.loss in WHOLE_BATCH and 1 in (swept or [train.batch_size]):
        key = "train.batch_size" if swept is None else "sweep.batch_size"
        raise ValueError(f"found {key} 1, expected 2 or more: loss {task.loss} compares texts of the whole batch")
