"""The sections of a fine-tuning recipe: a task, how long, and which grid of settings and seeds.

In: plain values from YAML, with nothing coerced: text is not a number, a number is not text.
Out: frozen pydantic models; the task is one of three dataclasses, chosen by `task.kind`.
A broken rule raises ValueError inside pydantic; `problems.py` says where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import Field, model_validator

from minilm.errors import SettingsError
from minilm.recipe.sections import (
    Count,
    DataclassSection,
    PositiveInt,
    RunRecipe,
    Section,
    Seed,
    Share,
    Text,
    TrainingSection,
)
from minilm.tasks.seq2seq.settings import Seq2SeqSettings
from minilm.tasks.settings import TaskSettings
from minilm.tasks.squad.settings import SquadSettings
from minilm.tasks.text.settings import TextSettings

_PositiveFloat = Annotated[float, Field(gt=0)]
_Grid = Annotated[list[_PositiveFloat], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class TaskFiles(TaskSettings, DataclassSection):
    """The files of a task: each of `dev` is scored separately; the first one chooses the best checkpoint."""

    train: Annotated[Sequence[Text], MinLen(1)]
    dev: Sequence[Text] = ()


@dataclass(frozen=True, kw_only=True)
class TextSection(TextSettings, TaskFiles):
    """Labelled texts, or a GLUE task by its name."""


@dataclass(frozen=True, kw_only=True)
class SquadSection(SquadSettings, TaskFiles):
    """Questions that are answered from their contexts."""


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSection(Seq2SeqSettings, TaskFiles):
    """Text from text."""


TaskSection = TextSection | SquadSection | Seq2SeqSection


@dataclass(frozen=True, kw_only=True)
class FinetuneTrainSection(TrainingSection):
    """How long in epochs, or in `steps` when given; `batch_size` counts examples per step.

    `warmup_steps` replaces `warmup_fraction` when given. `eval_every` 0 evaluates after each epoch. After `patience`
    evaluations without a better dev score the run stops; 0 never does.
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
            raise SettingsError("found both warmup_steps and warmup_fraction, expected one way to give the warmup")

    def num_warmup_steps(self, steps: int) -> int:
        """Steps of warmup in a run of `steps`."""
        return int(self.warmup_fraction * steps) if self.warmup_steps is None else self.warmup_steps


class SweepSection(Section):
    """Every combination of these is one run; a key left out keeps its value of `train`.

    `devices`: one run at a time on each, such as `[cuda:0, cuda:1]`; empty means all GPUs, or one CPU process.
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
                raise ValueError(f"{name} holds a value twice: every combination is run once")
        return self


class FinetuneRecipe(RunRecipe):
    """Everything that defines one fine-tuning run, or a sweep of them.

    `model` is a model folder, a `.bin` of Microsoft's or `embedded`; `config` and `tokenizer` are for models that
    have none beside them, `lowercase` overrides what the tokenizer's files say.
    """

    kind: Literal["finetune"]
    model: Text
    config: Text | None = None
    tokenizer: Text | None = None
    lowercase: bool | None = None
    task: Annotated[TaskSection, Field(discriminator="kind")]
    train: FinetuneTrainSection
    sweep: SweepSection | None = None

    @model_validator(mode="after")
    def _values_fit_together(self) -> FinetuneRecipe:
        if self.task.longest > self.train.tokens_per_batch:
            is_pair = isinstance(self.task, Seq2SeqSection)
            what = "source, target and pseudo tokens together, at most" if is_pair else "task.max_tokens"
            raise ValueError(
                f"train.tokens_per_batch {self.train.tokens_per_batch} is less than {what}"
                f" {self.task.longest}: one example must fit into a batch"
            )
        if self.train.patience and not self.task.dev:
            raise ValueError("train.patience needs task.dev: nothing tells when the model gets no better")
        if self.train.steps is not None and self.sweep is not None and self.sweep.epochs:
            raise ValueError(
                "train.steps says how long every run is, so sweep.epochs would change nothing: set one of them to null"
            )
        return self
