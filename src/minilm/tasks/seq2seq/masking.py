"""Masks pairs for training and evaluation, by UniLM's three methods.

In: token ids of source and target, a random generator. Out: `MaskedPair`s.

v2 (pseudo-masking): each target token is predicted at a pseudo token, usually [MASK]. v1: some target tokens are masked
in place and predicted. v0: each target token predicts the next one, and the source has no [SEP].

S source tokens, M target tokens with the final [SEP], R predicted tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minilm.tasks.seq2seq.settings import MaskingSettings, MaskWay

Ids = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbols:
    """Ids of [CLS], [SEP] and [MASK], and the vocabulary size, from which random replacement ids are drawn."""

    cls_id: int
    sep_id: int
    mask_id: int
    vocab_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedPair:
    """One pair as model input.

    Attributes:
        source: `[S]`, with special tokens.
        target: `[M]`, possibly masked.
        pseudo: pseudo tokens, `[M]`; None for v1 and v0.
        read: indices of the target tokens at which the model predicts; None for all.
        labels: the tokens to predict, `[R]`.
    """

    source: Ids
    target: Ids
    pseudo: Ids | None
    read: NDArray[np.int64] | None
    labels: Ids

    @property
    def num_tokens(self) -> int:
        """Number of tokens the encoder processes."""
        return len(self.source) + len(self.target) + (0 if self.pseudo is None else len(self.pseudo))


def training_view(
    source: Ids, target: Ids, masking: MaskingSettings, symbols: Symbols, draw: np.random.Generator
) -> MaskedPair:
    """Frame and mask one pair for training; `draw` is the only source of randomness."""
    source, target, labels = _framed(source, target, masking.mask_way, symbols)
    hidden = (draw.random(len(source)) < masking.source_mask_prob) & ~np.isin(source, (symbols.cls_id, symbols.sep_id))
    source = np.where(hidden, _masked(source, masking, symbols, draw), source)
    masked = _masked(target, masking, symbols, draw)
    if masking.mask_way == "v1":
        read = np.sort(draw.permutation(len(target))[: masking.num_predicted(len(target))])
        chosen = np.isin(np.arange(len(target)), read)
        return MaskedPair(
            source=source, target=np.where(chosen, masked, target), pseudo=None, read=read, labels=labels[read]
        )
    chosen = draw.random(len(target)) < masking.target_mask_prob
    if masking.mask_way == "v0":
        chosen[0] = False  # the [SEP] that starts the target
    target = np.where(chosen, masked, target)
    return MaskedPair(
        source=source, target=target, pseudo=masked if masking.mask_way == "v2" else None, read=None, labels=labels
    )


def heldout_view(source: Ids, target: Ids, mask_way: MaskWay, symbols: Symbols) -> MaskedPair:
    """Frame one pair as in decoding: only the tokens to predict are masked, and each is predicted exactly once."""
    source, target, labels = _framed(source, target, mask_way, symbols)
    pseudo = None if mask_way == "v0" else np.full(len(target), symbols.mask_id, dtype=np.int32)
    return MaskedPair(source=source, target=target, pseudo=pseudo, read=None, labels=labels)


def _framed(source: Ids, target: Ids, mask_way: MaskWay, symbols: Symbols) -> tuple[Ids, Ids, Ids]:
    """Source, target and labels with special tokens."""
    cls, sep = (np.array([token], dtype=np.int32) for token in (symbols.cls_id, symbols.sep_id))
    labels = np.concatenate([target, sep])
    if mask_way == "v0":
        return np.concatenate([cls, source]), np.concatenate([sep, target]), labels
    return np.concatenate([cls, source, sep]), labels, labels


def _masked(ids: Ids, masking: MaskingSettings, symbols: Symbols, draw: np.random.Generator) -> Ids:
    """The masked form of every token: usually [MASK], sometimes a random token or the token itself."""
    chance = draw.random(len(ids))
    random_ids = draw.integers(0, symbols.vocab_size, len(ids), dtype=np.int32)
    kept = np.where(chance < masking.keep_prob, ids, np.int32(symbols.mask_id))
    is_random = (chance >= masking.keep_prob) & (chance < masking.keep_prob + masking.random_prob)
    return np.where(is_random, random_ids, kept)
