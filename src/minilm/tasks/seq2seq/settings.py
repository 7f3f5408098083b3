"""How pairs of source and target are read and masked, and what else their training needs.

In: values of a recipe, of Python or of a model folder's `task.json`. Out: `PairSettings`, `MaskingSettings`, and both
in `Seq2SeqSettings`, checked.
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
    """Which fields of a row are read, and how long they may be.

    Attributes:
        source: fields of the source, joined by [SEP], such as a passage and the answer to ask for.
        target: field of the target.
        max_source_tokens: special tokens included.
        max_target_tokens: the final [SEP] included.
    """

    source: Annotated[Sequence[Text], MinLen(1)] = ("src",)
    target: Text = "tgt"
    max_source_tokens: Annotated[int, Ge(3)] = 464
    max_target_tokens: Annotated[int, Ge(2)] = 48


@dataclass(frozen=True, kw_only=True)
class MaskingSettings(Settings):
    """What is masked in training.

    Attributes:
        mask_way: v2 is pseudo-masking, v1 masks target tokens in place, v0 predicts the next token.
        source_mask_prob: share of source tokens that are masked; special tokens never are.
        target_mask_prob: v2 and v0, share of true target tokens that are masked; v1, share that is masked and
            predicted.
        random_prob: of a masked token: a random one instead of [MASK].
        keep_prob: of a masked token: the token itself.
        max_masked_tokens: v1, max tokens of one target that are masked; 0 for no limit.
    """

    mask_way: MaskWay = "v2"
    source_mask_prob: Share = 0.0
    target_mask_prob: Share = 0.0
    random_prob: Annotated[float, Ge(0), Le(1)] = 0.1
    keep_prob: Annotated[float, Ge(0), Le(1)] = 0.1
    max_masked_tokens: Count = 0

    def __post_init__(self) -> None:
        """Raise SettingsError also for masking that makes no sense."""
        super().__post_init__()
        if self.random_prob + self.keep_prob > 1:
            raise SettingsError(
                "random_prob and keep_prob are together more than 1: they are shares of the masked tokens"
            )
        if self.mask_way == "v1" and not self.target_mask_prob:
            raise SettingsError("mask_way v1 needs a target_mask_prob above 0: nothing else would be predicted")
        if self.max_masked_tokens and self.mask_way != "v1":
            raise SettingsError(
                "found max_masked_tokens with another mask_way than v1, which has no such thing: drop it"
            )

    def num_predicted(self, target_tokens: int) -> int:
        """Tokens that are predicted of a target with `target_tokens`, the final [SEP] included."""
        if self.mask_way != "v1":
            return target_tokens
        return max(1, min(self.max_masked_tokens or target_tokens, int(self.target_mask_prob * target_tokens)))


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSettings(MaskingSettings, PairSettings, TaskSettings):
    """Text from text.

    Attributes:
        label_smoothing: share of the probability that other tokens than the right one should get.
        shuffle: a new order for each epoch, or that of the first once and for all.
        freeze_words: leave the word table, which is also the output matrix, as it is.
        dev_generated: at each evaluation the targets of this many pairs of each held-out file are generated.
        beam_size: beams of that.
        metric: chooses the best weights.
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
        """Max tokens that one example takes in a batch."""
        return self.max_source_tokens + self.max_target_tokens * (2 if self.mask_way == "v2" else 1)

    @property
    def source_room(self) -> int:
        """Max tokens of a source without its special ones, of which v0 has no [SEP]."""
        return self.max_source_tokens - (1 if self.mask_way == "v0" else 2)
