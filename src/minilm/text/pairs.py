"""Text pairs in one sequence: [CLS] a [SEP] b [SEP], or <s> a </s></s> b </s>.

In: a backend of the `tokenizers` library, whose post-processor defines the special tokens of a pair; token ids.
Out: the frame, which joins two texts into int32 ids and segment ids; how many tokens of each text fit.

N tokens of the joined sequence, P of them special (the frame's own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from minilm.errors import DataError

if TYPE_CHECKING:
    import tokenizers

Int32s = npt.NDArray[np.int32]

_PROBE = "a"  # any text of at least one token


@dataclass(frozen=True, kw_only=True)
class PairFrame:
    """The special tokens around a pair of texts.

    Attributes:
        before: special tokens before the first text.
        between: special tokens between the two texts.
        after: special tokens after the second text.
        segments: segment ids `[P + 2]` of the special tokens and the two texts, in sequence order.
    """

    before: Int32s
    between: Int32s
    after: Int32s
    segments: Int32s

    @property
    def num_special(self) -> int:
        """P, the number of special tokens that the frame adds."""
        return len(self.segments) - 2

    def second_at(self, first_tokens: int) -> int:
        """Position of the second text after a first text of `first_tokens` tokens."""
        return len(self.before) + first_tokens + len(self.between)

    def join(self, first: Int32s, second: Int32s) -> Int32s:
        """Token ids of the framed pair, `[N]`."""
        return np.concatenate([self.before, first, self.between, second, self.after])

    def join_segments(self, first_tokens: int, second_tokens: int) -> Int32s:
        """Segment ids of a framed pair of these lengths, `[N]`."""
        repeats = np.ones(len(self.segments), dtype=np.intp)
        repeats[len(self.before)] = first_tokens
        repeats[len(self.before) + 1 + len(self.between)] = second_tokens
        return np.repeat(self.segments, repeats)


def read_pair_frame(backend: tokenizers.Tokenizer, *, cls_id: int, sep_id: int, where: str) -> PairFrame:
    """Derive the special tokens of a pair by running the post-processor on two probe texts.

    Raises:
        DataError: the pair is not framed with [CLS] and [SEP] (or <s> and </s>), or a text is not contiguous.
    """
    framed = backend.encode(_PROBE, _PROBE)
    texts = framed.sequence_ids  # 0, 1, or None for a special token
    ids = np.array(framed.ids, dtype=np.int32)
    first, second = (np.flatnonzero([text == number for text in texts]) for number in (0, 1))
    contiguous = all(len(text) and text[-1] - text[0] + 1 == len(text) for text in (first, second))
    if contiguous and first[-1] < second[0]:
        frame = PairFrame(
            before=ids[: first[0]],
            between=ids[first[-1] + 1 : second[0]],
            after=ids[second[-1] + 1 :],
            segments=np.delete(np.array(framed.type_ids, dtype=np.int32), np.r_[first[1:], second[1:]]),
        )
        if frame.before.tolist() == [cls_id] and sep_id in frame.between and sep_id in frame.after:
            return frame
    raise DataError(
        f"{where}: it frames two texts as {framed.tokens}, expected [CLS] a [SEP] b [SEP], or <s> a </s></s> b </s>: "
        "its post-processor does not support pairs"
    )


def frame_pairs(
    frame: PairFrame, firsts: Sequence[Int32s], seconds: Sequence[Int32s], *, room: int
) -> tuple[list[tuple[Int32s, Int32s]], list[int]]:
    """Join pairs into (ids, segment ids), truncated to `room` text tokens; also return which were truncated."""
    rows, truncated = [], []
    for number, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        kept, kept_second = longest_first(len(first), len(second), room=room)
        if kept + kept_second < len(first) + len(second):
            truncated.append(number)
        ids = frame.join(first[:kept], second[:kept_second])
        rows.append((ids, frame.join_segments(kept, kept_second)))
    return rows, truncated


def longest_first(first: int, second: int, *, room: int) -> tuple[int, int]:
    """How many tokens of each text to keep: truncate the longer text first, then both equally.

    This is the rule of the `tokenizers` library ("longest_first"), implemented here because the library also builds
    every combination of the overflowing pieces: two texts of 3,000 tokens cost seconds and gigabytes.
    """
    if first + second <= room:
        return first, second
    short, long = min(first, second), max(first, second)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)
