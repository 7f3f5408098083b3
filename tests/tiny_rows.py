"""Rows of tiny trainings, drawn by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path


def write(path: Path, rows: Iterator[dict[str, object]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(
    folder: Path, name: str, rows: Callable[..., Iterator[dict[str, object]]], *, scored: bool
) -> dict[str, list[str]]:
    """Write 60 training and 20 held-out rows; the files of each part."""
    parts = (("train", 60, 1), ("dev", 20, 2))
    return {
        part: [str(write(folder / f"{name}-{part}.jsonl", rows(count, seed=seed, scored=scored)))]
        for part, count, seed in parts
    }


def _text(draw: random.Random, *words: str, first: int = 0, most: int = 12) -> str:
    return " ".join([*words, *(f"word{word}" for word in draw.choices(range(first, 95), k=draw.randint(2, most)))])


def vector_rows(count: int, *, seed: int, scored: bool = True) -> Iterator[dict[str, object]]:
    """Rows with the columns of every loss of text vectors; without scores of lists unless `scored`."""
    draw = random.Random(seed)
    for _ in range(count):
        query, negatives = _text(draw), [_text(draw) for _ in range(draw.randint(1, 3))]
        positive = f"{query} {_text(draw)}"
        pair = {"query": query, "positive": positive, "negatives": negatives}
        scores = [draw.uniform(-2, 2) for _ in range(len(negatives) + 1)]
        judged = {"sentence1": query, "sentence2": draw.choice([positive, negatives[0]]), "score": draw.random()}
        yield {"text": _text(draw), **pair, **({"scores": scores} if scored else {}), **judged}


def ranked_rows(count: int, *, seed: int, scored: bool = True) -> Iterator[dict[str, object]]:
    """Rows with a query, a positive, which contains word7, its negatives and, if `scored`, scores of all."""
    draw = random.Random(seed)
    for _ in range(count):
        negatives = [_text(draw, first=10, most=9) for _ in range(draw.randint(1, 4))]
        scores = [draw.uniform(2, 5), *(draw.uniform(-5, -2) for _ in negatives)]
        query, positive = (_text(draw, *words, first=10, most=9) for words in ((), ("word7",)))
        row = {"query": query, "positive": positive, "negatives": negatives}
        yield {**row, "scores": scores} if scored else row
