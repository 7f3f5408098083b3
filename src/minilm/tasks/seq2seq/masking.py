"""What the model sees of a pair, and what it must predict: UniLM's three ways of masking.

In: token ids of source and target, a generator. Out: `MaskedPair`s.

v2 (pseudo-masking): every target token has a pseudo token, mostly [MASK], that predicts it. v1: some target tokens are
masked in place and predicted. v0: every target token predicts the next one, and the source has no [SEP].

S source tokens, M target tokens with the final [SEP], R predicted tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
MaskWay = Literal["v0", "v1", "v2"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbols:
    """Ids that frame and mask: [CLS], [SEP], [MASK], and the size of the vocabulary that random ids come from."""

    cls_id: int
    sep_id: int
    mask_id: int
    vocab_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """What is masked in training.

    Attributes:
        way: v0, v1 or v2.
        source_prob: share of source tokens that are masked; special tokens never are.
        target_prob: v2 and v0, share of true target tokens that are masked; v1, share that is masked and predicted.
        random_prob: of a masked token: a random one instead of [MASK].
        keep_prob: of a masked token: the token itself.
        most_masked: v1, most tokens of one target that are masked; 0 for no limit.
    """

    way: MaskWay = "v2"
    source_prob: float = 0.0
    target_prob: float = 0.0
    random_prob: float = 0.1
    keep_prob: float = 0.1
    most_masked: int = 0

    def num_predicted(self, target_tokens: int) -> int:
        """Tokens that are predicted of a target with so many, the final [SEP] among them."""
        if self.way != "v1":
            return target_tokens
        return max(1, min(self.most_masked or target_tokens, int(self.target_prob * target_tokens)))


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedPair:
    """One pair as the model sees it.

    Attributes:
        source: `[S]`, with special tokens.
        target: `[M]`, possibly masked.
        pseudo: `[M]`; None for v1 and v0.
        read: which target tokens predict; None when all do.
        labels: `[R]`, what is to be predicted.
    """

    source: Ids
    target: Ids
    pseudo: Ids | None
    read: NDArray[np.int64] | None
    labels: Ids

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed."""
        return len(self.source) + len(self.target) + (0 if self.pseudo is None else len(self.pseudo))


def training_view(
    source: Ids, target: Ids, masking: Masking, symbols: Symbols, draw: np.random.Generator
) -> MaskedPair:
    """Frame and mask one pair; everything random comes from `draw`."""
    source, target, labels = _framed(source, target, masking.way, symbols)
    hidden = (draw.random(len(source)) < masking.source_prob) & ~np.isin(source, (symbols.cls_id, symbols.sep_id))
    source = np.where(hidden, _masked(source, masking, symbols, draw), source)
    masked = _masked(target, masking, symbols, draw)
    if masking.way == "v1":
        read = np.sort(draw.permutation(len(target))[: masking.num_predicted(len(target))])
        chosen = np.isin(np.arange(len(target)), read)
        return MaskedPair(
            source=source, target=np.where(chosen, masked, target), pseudo=None, read=read, labels=labels[read]
        )
    chosen = draw.random(len(target)) < masking.target_prob
    if masking.way == "v0":
        chosen[0] = False  # the [SEP] that starts the target
    target = np.where(chosen, masked, target)
    return MaskedPair(
        source=source, target=target, pseudo=masked if masking.way == "v2" else None, read=None, labels=labels
    )


def heldout_view(source: Ids, target: Ids, way: MaskWay, symbols: Symbols) -> MaskedPair:
    """One pair as decoding sees it: nothing is hidden but what is predicted, each token once."""
    source, target, labels = _framed(source, target, way, symbols)
    pseudo = None if way == "v0" else np.full(len(target), symbols.mask_id, dtype=np.int32)
    return MaskedPair(source=source, target=target, pseudo=pseudo, read=None, labels=labels)


def _framed(source: Ids, target: Ids, way: MaskWay, symbols: Symbols) -> tuple[Ids, Ids, Ids]:
    """Source, target and labels with their special tokens."""
    cls, sep = (np.array([token], dtype=np.int32) for token in (symbols.cls_id, symbols.sep_id))
    labels = np.concatenate([target, sep])
    if way == "v0":
        return np.concatenate([cls, source]), np.concatenate([sep, target]), labels
    return np.concatenate([cls, source, sep]), labels, labels


def _masked(ids: Ids, masking: Masking, symbols: Symbols, draw: np.random.Generator) -> Ids:
    """Each token masked: mostly [MASK], sometimes a random token, sometimes itself."""
    chance = draw.random(len(ids))
    random_ids = draw.integers(0, symbols.vocab_size, len(ids), dtype=np.int32)
    kept = np.where(chance < masking.keep_prob, ids, np.int32(symbols.mask_id))
    is_random = (chance >= masking.keep_prob) & (chance < masking.keep_prob + masking.random_prob)
    return np.where(is_random, random_ids, kept)
