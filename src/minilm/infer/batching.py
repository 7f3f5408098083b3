"""From any stream of texts to packed batches and back to the order of the texts.

In: texts, one by one if need be. Out: one result per text, in order; memory is bounded by one window.

Texts are tokenized once per window, sorted by their number of tokens and cut by a token budget: a batch
costs what its tokens cost, and neighbours of equal length share one attention call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from minilm.corpus.order import microbatches
from minilm.model.packing import Packed, pack
from minilm.text.tokenizer import Tokenizer

WINDOW = 4096  # texts that are tokenized and sorted together
TOKEN_BUDGET = 4096  # tokens of one batch


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
        sequences = tokenizer.encode(window, max_length=max_tokens)
        lengths = np.array([len(sequence) for sequence in sequences])
        batches = microbatches(lengths, token_budget=TOKEN_BUDGET)
        rows = [compute(pack([sequences[index] for index in batch])).cpu() for batch in batches]
        joined = torch.cat(rows)
        restored = torch.empty_like(joined)
        restored[torch.from_numpy(np.concatenate(batches))] = joined
        yield restored
