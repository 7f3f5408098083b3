"""Search by words: BM25 of the library `bm25s`, with its defaults.

In: N texts; a query. Out: a score for each text, `[N]`; 0 where they share no word. A word has two letters or more, in
lower case; English stop words do not count. The scores are those of Lucene's formula with k1 1.5 and b 0.75.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minilm.errors import SystemProblem
from minilm.infer.vector_precision import Float32s

if TYPE_CHECKING:
    from bm25s import BM25


class WordIndex:
    """Texts that are searched by their words; kept in memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the texts; raises SystemProblem if `bm25s` is not installed."""
        try:
            import bm25s
        except ImportError:
            raise SystemProblem("BM25 needs the package bm25s: pip install 'minilm[search]'") from None
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its own level shows each step
        self._tokenize, self._count = bm25s.tokenize, len(texts)
        self._index: BM25 | None = None
        tokens = self._tokenize(list(texts), show_progress=False)
        if any(tokens.ids):
            self._index = bm25s.BM25()
            self._index.index(tokens, show_progress=False)

    def scores(self, query: str) -> Float32s:
        """The score of each text, `[N]`."""
        [words] = self._tokenize([query], return_ids=False, show_progress=False)
        known = self._index.get_tokens_ids(words) if self._index is not None else []
        if self._index is None or not known:
            return np.zeros(self._count, dtype=np.float32)
        scores: Float32s = self._index.get_scores_from_ids(known)
        return scores
