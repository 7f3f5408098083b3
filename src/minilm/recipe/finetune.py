"""The sections of a fine-tuning recipe: a task, how long, and which grid of settings and seeds.

In: plain values from YAML, with nothing coerced: text is not a number, a number is not text.
Out: frozen pydantic models. A broken rule raises ValueError inside pydantic; `problems.py` says where.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from minilm.recipe.sections import Count, OptimizationSection, PositiveInt, Section, Seed, Share, Text

SQUAD, SEQ2SEQ = "squad", "seq2seq"
_TEXT_KEYS = ("text", "text_pair", "label", "id", "labels", "regression", "metric")
_SQUAD_KEYS = (
    *("version", "stride", "max_question_tokens", "max_answer_tokens", "n_best", "null_threshold"),
    "postprocess",
)
_SEQ2SEQ_KEYS = (
    *("source", "target", "max_source_tokens", "max_target_tokens", "label_smoothing", "mask_way"),
    *("source_mask_prob", "target_mask_prob", "random_prob", "keep_prob", "max_masked_tokens", "shuffle"),
    *("freeze_words", "dev_generated", "beam_size"),
)
_SQUAD_TOKENS = 384
_PositiveFloat = Annotated[float, Field(gt=0)]
_Grid = Annotated[list[_PositiveFloat], Field(min_length=1)]


class TaskSection(Section):
    """What is learned: a GLUE task by its name, `squad`, `seq2seq`, or labelled texts under a name you choose.

    Columns, labels and metrics of the GLUE tasks are known; for texts of your own they are named here. Each file
    of `dev` is scored by itself; the first one chooses the best checkpoint.

    Of `seq2seq`: the fields of `source` are joined by [SEP]; lengths count special tokens. `mask_way` v2 is
    pseudo-masking, v1 masks target tokens in place (`target_mask_prob` of them, at most `max_masked_tokens`), v0
    predicts the next token. Of masked tokens `random_prob` are random ones, `keep_prob` stay, the rest are [MASK].
    `shuffle` once gives every epoch the order of the first. At each evaluation `dev_generated` pairs of each held-out
    file are generated with `beam_size` beams and scored; `metric` may then name one of these scores.
    """

    name: Text
    train: Annotated[list[Text], Field(min_length=1)]
    dev: list[Text] = Field(default_factory=list)
    max_tokens: Annotated[int, Field(ge=8)] = 128
    text: Text | None = None
    text_pair: Text | None = None
    label: Text | None = None
    id: Text | None = None
    labels: list[Text] = Field(default_factory=list)
    regression: bool = False
    metric: Text | None = None
    version: Literal["1.1", "2.0"] = "2.0"
    stride: PositiveInt = 128
    max_question_tokens: PositiveInt = 64
    max_answer_tokens: PositiveInt = 30
    n_best: PositiveInt = 20
    null_threshold: float = 0.0
    postprocess: Literal["exact", "classic"] = "exact"
    source: Annotated[list[Text], Field(min_length=1)] = Field(default_factory=lambda: ["src"])
    target: Text = "tgt"
    max_source_tokens: Annotated[int, Field(ge=3)] = 464
    max_target_tokens: Annotated[int, Field(ge=2)] = 48
    label_smoothing: Share = 0.1
    mask_way: Literal["v0", "v1", "v2"] = "v2"
    source_mask_prob: Share = 0.0
    target_mask_prob: Share = 0.0
    random_prob: Annotated[float, Field(ge=0, le=1)] = 0.1
    keep_prob: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_masked_tokens: Count = 0
    shuffle: Literal["epoch", "once"] = "epoch"
    freeze_words: bool = False
    dev_generated: Count = 0
    beam_size: PositiveInt = 1

    @property
    def longest(self) -> int:
        """Most tokens that one example takes in a batch."""
        if self.name != SEQ2SEQ:
            return self.max_tokens
        return self.max_source_tokens + self.max_target_tokens * (2 if self.mask_way == "v2" else 1)

    @model_validator(mode="before")
    @classmethod
    def _squad_is_longer(cls, values: object) -> object:
        """Passages need more tokens than sentences: 384 when a SQuAD recipe does not say."""
        if isinstance(values, dict) and values.get("name") == SQUAD:
            return {"max_tokens": _SQUAD_TOKENS, **values}
        return values

    @model_validator(mode="after")
    def _keys_belong_to_the_task(self) -> TaskSection:
        own = {SQUAD: _SQUAD_KEYS, SEQ2SEQ: (*_SEQ2SEQ_KEYS, "metric")}.get(self.name, _TEXT_KEYS)
        foreign = [key for key in (*_TEXT_KEYS, *_SQUAD_KEYS, *_SEQ2SEQ_KEYS) if key not in own]
        if self.name == SEQ2SEQ:
            foreign.append("max_tokens")
        changed = [
            key
            for key in foreign
            if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True)
        ]
        if changed:
            raise ValueError(f"found {', '.join(changed)} with task {self.name!r}, which has no such thing: drop it")
        if self.regression and self.labels:
            raise ValueError("found labels with regression true, which predicts a number: drop one of the two")
        return self

    @model_validator(mode="after")
    def _masking_makes_sense(self) -> TaskSection:
        if self.random_prob + self.keep_prob > 1:
            raise ValueError("random_prob and keep_prob are together more than 1: they are shares of the masked tokens")
        if self.mask_way == "v1" and not self.target_mask_prob:
            raise ValueError("mask_way v1 needs a target_mask_prob above 0: nothing else would be predicted")
        if self.max_masked_tokens and self.mask_way != "v1":
            raise ValueError("found max_masked_tokens with another mask_way than v1, which has no such thing: drop it")
        return self


class FinetuneTrainSection(OptimizationSection):
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

    @model_validator(mode="after")
    def _one_warmup(self) -> FinetuneTrainSection:
        if self.warmup_steps is not None and self.warmup_fraction != type(self).model_fields["warmup_fraction"].default:
            raise ValueError("found both warmup_steps and warmup_fraction, expected one way to give the warmup")
        return self

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


class FinetuneRecipe(Section):
    """Everything that defines one fine-tuning run, or a sweep of them.

    `model` is a model folder, a `.bin` of Microsoft's or `embedded`; `config` and `tokenizer` are for models that
    have none beside them, `lowercase` overrides what the tokenizer's files say.
    """

    kind: Literal["finetune"]
    name: Text
    seed: Seed = 42
    out: Text
    model: Text
    config: Text | None = None
    tokenizer: Text | None = None
    lowercase: bool | None = None
    task: TaskSection
    train: FinetuneTrainSection
    sweep: SweepSection | None = None

    @model_validator(mode="after")
    def _values_fit_together(self) -> FinetuneRecipe:
        if self.task.longest > self.train.tokens_per_batch:
            what = (
                "task.max_tokens" if self.task.name != SEQ2SEQ else "source, target and pseudo tokens together, at most"
            )
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
