"""What a distillation costs: its tokens, operations and bytes, from shapes; nothing is measured here.

In: a recipe, its plan, lengths of documents. Out: numbers of a step and of a run folder.

T tokens, N tokens of a document, E hidden width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilm.distill.plan import DistillPlan
from minilm.distill.relation_loss import V1_PAIRS, V2_PAIRS
from minilm.model.config import EncoderConfig
from minilm.recipe import DistillRecipe

_COMPRESSED, _EXPANSION = (".gz", ".parquet"), 3
_STATE_BYTES = 16  # of a trained weight: itself, its gradient, two moments of AdamW
_SAVED_BYTES = 12  # in a checkpoint: the weight and the moments
_ROW_BYTES = 600  # a line of metrics.jsonl
_OTHER_BYTES = 2**20  # report, log, card


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The documents of a corpus, counted or estimated.

    Attributes:
        mean: tokens of a document.
        mean_square: mean of the squares of the documents' tokens.
        documents: number of documents.
        source: where the numbers are from, in words.
    """

    mean: float
    mean_square: float
    documents: float
    source: str

    @classmethod
    def of(cls, lengths: np.ndarray, *, documents: float, source: str) -> Lengths:
        """The lengths of some documents stand for all of them."""
        values = lengths.astype(np.float64)
        return cls(
            mean=float(values.mean()),
            mean_square=float((values**2).mean()),
            documents=documents,
            source=source,
        )


def step_flops(recipe: DistillRecipe, plan: DistillPlan, lengths: Lengths) -> float:
    """Operations of the matrix products of a step; those of a backward pass count twice the forward pass.

    The teacher ends, and so does each student, with the queries, keys and values of the distilled layer.
    """
    teacher = plan.sizes
    pairs = len(V1_PAIRS if recipe.loss.version == "v1" else V2_PAIRS)
    rows, squares = recipe.train.batch_size * lengths.mean, recipe.train.batch_size * lengths.mean_square
    projections = 2 * teacher.hidden_size * (teacher.query_width + 2 * teacher.key_width)
    layer = projections + 2 * teacher.hidden_size * (teacher.query_width + 2 * teacher.intermediate_size)
    total = rows * ((teacher.layer - 1) * layer + projections)
    total += squares * 2 * teacher.query_width * (2 * (teacher.layer - 1) + pairs)
    for config in plan.configs.values():
        total += 3 * (
            rows * _student_row(config) + squares * 2 * config.hidden_size * (2 * (config.num_layers - 1) + pairs)
        )
    return total


def _student_row(config: EncoderConfig) -> int:
    width, last = config.hidden_size, 6 * config.hidden_size**2
    return (config.num_layers - 1) * (last + 2 * width**2 + 4 * width * config.intermediate_size) + last


def trained_bytes(plan: DistillPlan) -> int:
    """Weights, gradients and optimizer state of all students."""
    return _STATE_BYTES * sum(config.num_parameters() for config in plan.configs.values())


def folder_bytes(recipe: DistillRecipe, plan: DistillPlan) -> dict[str, float]:
    """Bytes of a run folder by what holds them; a checkpoint and a model are complete before an older one goes."""
    weights = sum(config.num_parameters() for config in plan.configs.values())
    train = recipe.train
    rows = train.steps / train.log_every + (train.steps / train.eval_every if train.eval_every else 1)
    saved = min(train.keep_checkpoints, -(-train.steps // train.checkpoint_every)) + 1
    return {
        "checkpoints": float(_SAVED_BYTES * weights * saved),
        "models": float(2 * 4 * weights),
        "metrics and report": _ROW_BYTES * rows + _OTHER_BYTES,
    }


def corpus_bytes(tokens: float, documents: float, *, vocab_size: int) -> float:
    """Bytes of the shards of a corpus."""
    return tokens * (2 if vocab_size <= 2**16 else 4) + 8 * documents


def text_bytes(files: Sequence[Path]) -> float:
    """Bytes of the text in files; a compressed file counts three times."""
    return float(sum(file.stat().st_size * (_EXPANSION if file.suffix in _COMPRESSED else 1) for file in files))


def held_bytes(folder: Path) -> int:
    """Bytes of the files that a folder has already."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
