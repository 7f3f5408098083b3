"""Builds sources from parts: looks up token lists, joins parts with [SEP], truncates the result.

In: tokens, or the token ids of parts. Out: token ids, int32, and what was unknown or truncated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilm.text.pairs import Int32s
from minilm.text.tokenizer import Tokenizer


def look_up(tokens: Sequence[str], tokenizer: Tokenizer) -> tuple[Int32s, list[str]]:
    """Ids of tokens, [UNK] for tokens outside the vocabulary; also returns the unknown tokens."""
    found = [tokenizer.token_to_id(token) for token in tokens]
    unknown = [token for token, token_id in zip(tokens, found, strict=True) if token_id is None]
    ids = [tokenizer.unk_id if token_id is None else token_id for token_id in found]
    return np.array(ids, dtype=np.int32), unknown


def join_parts(parts: Sequence[Int32s], *, separator_id: int, room: int) -> tuple[Int32s, int]:
    """Join parts with a separator; returns the ids and their length before truncation.

    If that length exceeds `room`, the end of the first part is truncated (a passage, not the answer after it).
    """
    separator = np.array([separator_id], dtype=np.int32)
    rest = [ids for part in parts[1:] for ids in (separator, part)]
    tail = np.concatenate([np.zeros(0, dtype=np.int32), *rest])[:room]
    ids = np.concatenate([parts[0][: room - len(tail)], tail])
    return ids, sum(map(len, parts)) + len(parts) - 1
