"""Proves how parts are joined and truncated, and what looking up tokens finds."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.tasks.seq2seq.parts import join_parts, look_up
from minilm.text.tokenizer import Tokenizer

FIRST, SECOND = np.array([1, 2, 3], dtype=np.int32), np.array([4, 5], dtype=np.int32)


@pytest.mark.parametrize(
    ("parts", "room", "expected", "length"),
    [
        ([FIRST], 9, [1, 2, 3], 3),
        ([FIRST], 2, [1, 2], 3),
        ([FIRST, SECOND], 6, [1, 2, 3, 0, 4, 5], 6),
        ([FIRST, SECOND], 4, [1, 0, 4, 5], 6),  # the first part is truncated
        ([FIRST, SECOND], 3, [0, 4, 5], 6),
        ([FIRST, SECOND], 2, [0, 4], 6),
        ([FIRST, SECOND, FIRST], 9, [1, 2, 0, 4, 5, 0, 1, 2, 3], 10),
    ],
)
def test_parts_are_joined_and_the_first_is_truncated(parts, room, expected, length):
    ids, uncut = join_parts(parts, separator_id=0, room=room)
    assert (ids.tolist(), ids.dtype, uncut) == (expected, np.int32, length)


def test_unknown_tokens_are_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]))
    ids, unknown = look_up(["a", "##b", "zebra", "[SEP]"], Tokenizer.load(tmp_path / "vocab.txt"))
    assert ids.tolist() == [5, 6, 1, 3]
    assert unknown == ["zebra"]
