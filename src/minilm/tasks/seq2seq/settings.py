"""Settings of sequence-to-sequence tasks: reading pairs, masking, training and evaluation.

In: values from a recipe, from Python or from `task.json` of a model folder. Out: validated `PairSettings`,
`MaskingSettings`, and both as `Seq2SeqSettings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from minilm.errors import SettingsError
from minilm.files.checked import Count, PositiveInt, Settings, Share, Text
from minilm.tasks.settings import TaskSettings

MaskWay = Literal["v0", "v1", "v2"]


@dataclass(frozen=True, kw_only=True)
class PairSettings(Settings):
    """The fields of a row to read, and their max lengths.

    Attributes:
        source: fields of the source, joined by [SEP], such as a passage and an answer to generate a question for.
        target: field of the target.
        max_source_tokens: max tokens of a source, including special tokens.
        max_target_tokens: max tokens of a target, including the final [SEP].
    """

    source: Annotated[Sequence[Text], MinLen(1)] = ("src",)
    target: Text = "tgt"
    max_source_tokens: Annotated[int, Ge(3)] = 464
    max_target_tokens: Annotated[int, Ge(2)] = 48


@dataclass(frozen=True, kw_only=True)
class MaskingSettings(Settings):
    """Masking during training.

    Attributes:
        mask_way: v2 is pseudo-masking, v1 masks target tokens in place, v0 predicts the next token.
        source_mask_prob: fraction of source tokens to mask; special tokens are never masked.
        target_mask_prob: v2 and v0: fraction of target tokens to mask; v1: fraction to mask and predict.
        random_prob: probability that a masked token is replaced by a random token instead of [MASK].
        keep_prob: probability that a masked token is left unchanged.
        max_masked_tokens: v1: max masked tokens per target; 0 for no limit.
    """

    mask_way: MaskWay = "v2"
    source_mask_prob: Share = 0.0
    target_mask_prob: Share = 0.0
    random_prob: Annotated[float, Ge(0), Le(1)] = 0.1
    keep_prob: Annotated[float, Ge(0), Le(1)] = 0.1
    max_masked_tokens: Count = 0

    def __post_init__(self) -> None:
        """Raise SettingsError also for contradictory masking settings."""
        super().__post_init__()
        if self.random_prob + self.keep_prob > 1:
            raise SettingsError(
                f"random_prob + keep_prob is {self.random_prob + self.keep_prob:g}, expected at most 1: "
                "they are fractions of the masked tokens"
            )
        if self.mask_way == "v1" and not self.target_mask_prob:
            raise SettingsError("mask_way v1 requires a target_mask_prob above 0: it predicts only masked tokens")
        if self.max_masked_tokens and self.mask_way != "v1":
            raise SettingsError(
                f"max_masked_tokens applies only to mask_way v1, found mask_way {self.mask_way}; remove one of the two"
            )

    def num_predicted(self, target_tokens: int) -> int:
        """Number of predicted tokens in a target of `target_tokens` tokens, including the final [SEP]."""
        if self.mask_way != "v1":
            return target_tokens
        return max(1, min(self.max_masked_tokens or target_tokens, int(self.target_mask_prob * target_tokens)))


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSettings(MaskingSettings, PairSettings, TaskSettings):
    """Sequence-to-sequence generation.

    Attributes:
        label_smoothing: target probability spread over the incorrect tokens.
        shuffle: `epoch` reshuffles every epoch; `once` keeps the order of the first epoch.
        freeze_words: freeze the word embeddings, which are also the output projection.
        dev_generated: number of pairs per held-out file for which targets are generated at each evaluation.
        beam_size: beam size of that generation.
        metric: metric that selects the best checkpoint; None: the held-out loss.
    """

    kind: Literal["seq2seq"] = "seq2seq"
    label_smoothing: Share = 0.1
    shuffle: Literal["epoch", "once"] = "epoch"
    freeze_words: bool = False
    dev_generated: Count = 0
    beam_size: PositiveInt = 1
    metric: Text | None = None

    @property
    def longest(self) -> int:
        """Max tokens of one example in a batch."""
        return self.max_source_tokens + self.max_target_tokens * (2 if self.mask_way == "v2" else 1)

    @property
    def source_room(self) -> int:
        """Max tokens of a source, excluding special tokens; sources of v0 have no [SEP]."""
        return self.max_source_tokens - (1 if self.mask_way == "v0" else 2)
