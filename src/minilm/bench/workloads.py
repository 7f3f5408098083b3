"""What is measured: texts in calls, and the operations that they cost.

In: texts, a tokenizer, the sizes of an encoder. Out: workloads; operations of their real tokens, never of padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from minilm.errors import DataError
from minilm.files.texts import read_texts
from minilm.model.config import EncoderConfig
from minilm.tally import Tally
from minilm.text.installed import manual
from minilm.text.tokenizer import Tokenizer

MOST_TOKENS = 512
NUM_PASSAGES, MOST_TEXTS = 400, 30_000
_TEXTS_PER_CALL, _NUM_MIXED, _NUM_SINGLE = 32, 128, 32
_FEWEST_WORDS = 12  # of a paragraph of the manual
_NUM_LONG, _NUM_LATENCIES = 8, 40
_PRECISION_OF_ATTENTION = {"fp32": ("fp32",), "bf16": ("bf16", "fp32"), "int8": ("bf16", "fp32")}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Calls that are made one after another.

    Attributes:
        name: what it is called in tables.
        calls: the texts of each call.
        lengths: tokens of each text, special tokens included.
        is_latency: the time of a call counts, not the tokens of a second.
    """

    name: str
    calls: tuple[tuple[str, ...], ...]
    lengths: tuple[int, ...]
    is_latency: bool = False

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(self.lengths)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations (a product and a sum are two) of the linear maps and of the products of attention."""

    linear: int
    attention: int

    @property
    def operations(self) -> int:
        """All."""
        return self.linear + self.attention

    def least_seconds(self, precision: str, peaks: Mapping[str, float]) -> float | None:
        """The time that the units need at their peaks, 10^9 operations a second; None where one is unknown or absent.

        Attention of int8 is computed in bf16, or in fp32 where there is no bf16.
        """
        attention = next((peaks[name] for name in _PRECISION_OF_ATTENTION[precision] if peaks.get(name)), 0.0)
        if not peaks.get(precision) or not attention:
            return None
        return self.linear / (peaks[precision] * 1e9) + self.attention / (attention * 1e9)


def work_of(config: EncoderConfig, lengths: Sequence[int]) -> Work:
    """What the layers of an encoder compute for sequences of these lengths."""
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_layers
    return Work(
        linear=layers * 2 * (4 * width**2 + 2 * width * inner) * sum(lengths),
        attention=layers * 4 * width * sum(length**2 for length in lengths),
    )


def paragraphs() -> list[str]:
    """Paragraphs of Python's own reference manual (mean about 65 tokens), in a fixed random order."""
    unique = dict.fromkeys(" ".join(part.split()) for text in manual() for part in text.split("\n\n"))
    found = [text for text in unique if len(text.split()) >= _FEWEST_WORDS]
    return [found[index] for index in np.random.default_rng(0).permutation(len(found))]


def texts_of_file(path: Path, *, field: str = "text") -> list[str]:
    """The first texts of the user's file.

    Raises:
        UsageError: there is no such file, or its format is unknown.
        DataError: it is damaged or has no text.
    """
    tally = Tally()
    found = list(islice(read_texts([path], field=field, max_bad_rows=1.0, tally=tally), MOST_TEXTS))
    tally.report()
    if not found:
        raise DataError(f"{path} has no text; expected at least one")
    return found


def encode_workloads(
    texts: Sequence[str], tokenizer: Tokenizer, *, max_tokens: int, prompt: str = ""
) -> list[Workload]:
    """Bulk, calls of several texts and of one, the longest inputs, and the latency of a short and of a longer text.

    Args:
        texts: of natural lengths; words of them form the inputs of a fixed length.
        tokenizer: of the model.
        max_tokens: of an input of the model.
        prompt: what the model puts before each text.
    """

    def lengths_of(some: Sequence[str]) -> tuple[int, ...]:
        return tuple(map(len, tokenizer.encode([prompt + text for text in some], max_length=max_tokens, truncated=[])))

    def workload(name: str, some: Sequence[str], size: int, *, is_latency: bool = False) -> Workload:
        calls = tuple(tuple(some[start : start + size]) for start in range(0, len(some), size))
        return Workload(name=name, calls=calls, lengths=lengths_of(some), is_latency=is_latency)

    def exactly(count: int, tokens: int) -> list[str]:
        return [_longest(words, start * tokens, tokens, lengths_of) for start in range(count)]

    words = [word for text in texts[:NUM_PASSAGES] for word in text.split()]
    mixed = texts[:_NUM_MIXED]
    long = min(MOST_TOKENS, max_tokens)
    found = [
        workload(f"{len(texts):,} in one call" if len(texts) > 1 else "1 in one call", texts, len(texts)),
        workload(f"{_TEXTS_PER_CALL} a call", mixed, _TEXTS_PER_CALL),
        workload("1 a call", texts[:_NUM_SINGLE], 1),
        workload(f"{long} tokens", [" ".join(_words(words, i * long, long)) for i in range(_NUM_LONG)], _NUM_LONG),
    ]
    for tokens in (10, 128):
        if tokens < long:
            found.append(workload(f"{tokens} tokens, p50", exactly(_NUM_LATENCIES, tokens), 1, is_latency=True))
    return found


def _words(words: Sequence[str], start: int, count: int) -> Iterator[str]:
    """Words from a place on, from the first one again after the last."""
    return (words[(start + index) % len(words)] for index in range(count))


def _longest(
    words: Sequence[str], start: int, tokens: int, lengths_of: Callable[[Sequence[str]], Sequence[int]]
) -> str:
    """The most words from a place on that are at most `tokens` tokens; at least one word."""
    taken = list(_words(words, start, tokens))
    beginnings = [" ".join(taken[: count + 1]) for count in range(len(taken))]
    fitting = [text for text, length in zip(beginnings, lengths_of(beginnings), strict=True) if length <= tokens]
    return fitting[-1] if fitting else taken[0]
