"""Masked text, by BERT's rule: of the chosen tokens 80% become [MASK], 10% another token, 10% stay.

In: the ids of a document and its place in the run. Out: the ids that a model reads, which were chosen, and what was
there. It is a pure function of seed and place, so that neither microbatches nor processes change it.

N tokens of one document, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from minilm.randomness import bit_generator
from minilm.text.tokenizer import Tokenizer

Int64s = npt.NDArray[np.int64]

_FRAME = 2  # the first and the last token of a document, which are never masked


@dataclass(frozen=True, kw_only=True)
class MaskedDocument:
    """A document as a model reads it: ids `[N]`, the places of the chosen tokens in order, and what was there."""

    token_ids: Int64s
    places: Int64s
    labels: Int64s


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How documents are masked.

    Attributes:
        share: of the tokens between the first and the last one that are chosen; at least one is.
        mask_id: the id of [MASK].
        ordinary: ids that may take the place of a token, all but those of special tokens.
        seed: of the run.
    """

    share: float
    mask_id: int
    ordinary: Int64s
    seed: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, share: float, *, seed: int) -> Masking:
        """Masking with the special tokens of a tokenizer."""
        special = [tokenizer.mask_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.unk_id]
        ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size, dtype=np.int64), special)
        return cls(share=share, mask_id=tokenizer.mask_id, ordinary=ordinary, seed=seed)

    def counts(self, lengths: npt.NDArray[np.integer]) -> Int64s:
        """How many tokens of documents of these lengths are chosen."""
        inner = np.maximum(np.asarray(lengths, dtype=np.int64) - _FRAME, 0)
        return np.minimum(inner, np.maximum(1, np.floor(inner * self.share + 0.5).astype(np.int64)))

    def masked(self, token_ids: npt.NDArray[np.integer], *place: str | int) -> MaskedDocument:
        """Mask a document; `place` is where in the run it is read, such as ("step", 7, 31)."""
        ids = np.asarray(token_ids, dtype=np.int64)
        inner = max(len(ids) - _FRAME, 0)
        order, action, other = bit_generator(self.seed, "masking", *place).random_raw(3 * inner).reshape(3, inner)
        chosen = np.sort(np.argsort(order, kind="stable")[: int(self.counts(np.array(len(ids))))])
        action, other, places = action[chosen] % 10, other[chosen] % len(self.ordinary), chosen + 1
        changed = ids.copy()
        changed[places[action < 8]] = self.mask_id
        changed[places[action == 8]] = self.ordinary[other[action == 8]]
        return MaskedDocument(token_ids=changed, places=places, labels=ids[places])
