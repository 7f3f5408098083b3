"""Sources of generation made of parts: token lists looked up, several parts joined by [SEP], cut to what fits.

In: tokens, or the token ids of parts. Out: token ids, int32, and what could not be kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minilm.text.pairs import Int32s
from minilm.text.tokenizer import Tokenizer


def look_up(tokens: Sequence[str], tokenizer: Tokenizer) -> tuple[Int32s, list[str]]:
    """Ids of tokens, [UNK] for those that are not in the vocabulary, and which these are."""
    found = [tokenizer.token_to_id(token) for token in tokens]
    unknown = [token for token, token_id in zip(tokens, found, strict=True) if token_id is None]
    ids = [tokenizer.unk_id if token_id is None else token_id for token_id in found]
    return np.array(ids, dtype=np.int32), unknown


def join_parts(parts: Sequence[Int32s], *, separator_id: int, room: int) -> tuple[Int32s, int]:
    """Parts with a separator between them, and how many tokens they would be uncut.

    Where that is more than `room`, the tail of the first part is cut (of a passage, not of the answer behind it).
    """
    separator = np.array([separator_id], dtype=np.int32)
    rest = [ids for part in parts[1:] for ids in (separator, part)]
    tail = np.concatenate([np.zeros(0, dtype=np.int32), *rest])[:room]
    ids = np.concatenate([parts[0][: room - len(tail)], tail])
    return ids, sum(map(len, parts)) + len(parts) - 1
