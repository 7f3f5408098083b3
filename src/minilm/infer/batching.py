"""From any stream of texts to packed batches and back to the order of the texts.

In: texts, one by one if need be. Out: one result per text, in order; memory is bounded by one window.

Texts are tokenized once per window, sorted by their number of tokens and cut by a token budget: a batch
costs what its tokens cost, and neighbours of equal length share one attention call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilm.corpus.order import microbatches
from minilm.model.packing import Packed, pack
from minilm.text.tokenizer import Tokenizer

WINDOW = 4096  # texts that are tokenized and sorted together
TOKEN_BUDGET = 4096  # tokens of one batch

Ids = NDArray[np.int32]


def packed_batches(
    token_ids: Sequence[Ids], segment_ids: Sequence[Ids] | None = None, *, token_budget: int = TOKEN_BUDGET
) -> Iterator[tuple[NDArray[np.int64], Packed]]:
    """Yield batches of sequences of similar length, each with the numbers of its sequences; all come once."""
    lengths = np.array([len(sequence) for sequence in token_ids])
    for part in microbatches(lengths, token_budget=token_budget):
        segments = None if segment_ids is None else [segment_ids[index] for index in part]
        yield part, pack([token_ids[index] for index in part], segments=segments)


def run_in_order(
    texts: Iterable[str],
    compute: Callable[[Packed], Tensor],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
) -> Iterator[Tensor]:
    """Yield `compute`'s rows, `[texts of the window, ...]` on the host, window after window.

    `compute` maps a packed batch of B texts to `[B, ...]`. Texts longer than `max_tokens` are cut.
    """
    stream = iter(texts)
    while window := list(islice(stream, WINDOW)):
        parts, rows = [], []
        for part, packed in packed_batches(tokenizer.encode(window, max_length=max_tokens)):
            parts.append(part)
            rows.append(compute(packed).cpu())
        joined = torch.cat(rows)
        restored = torch.empty_like(joined)
        restored[torch.from_numpy(np.concatenate(parts))] = joined
        yield restored
