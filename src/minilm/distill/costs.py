"""What a distillation costs: its tokens, operations and bytes, from shapes; nothing is measured here.

In: a recipe, its plan, lengths of documents. Out: numbers of a step and of a run folder.

T tokens, N tokens of a document, E hidden width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilm.distill.criteria import pair_weights
from minilm.distill.plan import DistillPlan
from minilm.model.config import EncoderConfig
from minilm.recipe import DistillRecipe, LossSection

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

    Where relations are compared, the teacher ends with the queries, keys and values of the last layer that is needed,
    and so does each student. Of a teacher whose relations are stored, only their products are computed.
    """
    rows, squares = recipe.train.batch_size * lengths.mean, recipe.train.batch_size * lengths.mean_square
    masked = rows * (recipe.loss.masked_share or 0.0)
    total = _teacher_flops(recipe, plan, rows, squares, masked) if recipe.loss.has_teacher else 0.0
    for name, config in plan.configs.items():
        students = _layers(config.num_layers, _student_widths(config), recipe.loss, rows, squares)
        students += squares * 2 * config.hidden_size * num_relations(recipe.loss, plan, name)
        if recipe.loss.objective == "hidden":
            students += rows * 2 * config.hidden_size * plan.sizes.hidden_size * len(plan.layers[name])
        if recipe.loss.objective == "mlm":
            students += masked * _head_row(config)
        total += 3 * students
    return total


def _teacher_flops(recipe: DistillRecipe, plan: DistillPlan, rows: float, squares: float, masked: float) -> float:
    """Those of the teacher; to hidden rows and scores of tokens it runs to its end."""
    sizes, loss = plan.sizes, recipe.loss
    widths = _Widths(
        hidden=sizes.hidden_size, query=sizes.query_width, key=sizes.key_width, inner=sizes.intermediate_size
    )
    ends = max(plan.teacher_layers) if loss.objective == "relations" else sizes.num_layers
    total = _layers(ends, widths, loss, rows, squares) if recipe.cache is None else 0.0
    theirs = {name: num_relations(loss, plan, name) for name in plan.layers}
    total += squares * 2 * sizes.query_width * max(theirs.values())
    if loss.objective == "mlm":
        config = next(iter(plan.configs.values()))
        total += masked * 2 * sizes.hidden_size * (sizes.hidden_size + config.vocab_size)
    return total


def num_relations(loss: LossSection, plan: DistillPlan, name: str) -> int:
    """Relation matrices of a student: pairs in each compared layer."""
    if loss.objective != "relations":
        return 0
    return len(pair_weights(loss)) * len(plan.layers[name])


@dataclass(frozen=True, kw_only=True)
class _Widths:
    """Widths of rows in a layer: hidden, of queries, of keys and values, of the feed-forward."""

    hidden: int
    query: int
    key: int
    inner: int


def _student_widths(config: EncoderConfig) -> _Widths:
    width = config.hidden_size
    return _Widths(hidden=width, query=width, key=width, inner=config.intermediate_size)


def _layers(number: int, widths: _Widths, loss: LossSection, rows: float, squares: float) -> float:
    """A forward pass of layers, the last one whole or, where relations are compared, only its projections."""
    projections = 2 * widths.hidden * (widths.query + 2 * widths.key)
    layer = projections + 2 * widths.hidden * (widths.query + 2 * widths.inner)
    whole = number - (loss.objective == "relations")
    total = whole * (rows * layer + squares * 4 * widths.query)
    return total + (number - whole) * rows * projections


def _head_row(config: EncoderConfig) -> int:
    return 2 * config.embedding_width * (config.hidden_size + config.vocab_size)


def num_trained(recipe: DistillRecipe, plan: DistillPlan) -> int:
    """Weights of all students, with the matrices and heads that are trained with them."""
    return sum(config.num_parameters() + _num_besides(recipe, plan, name) for name, config in plan.configs.items())


def _num_besides(recipe: DistillRecipe, plan: DistillPlan, name: str) -> int:
    config = plan.configs[name]
    if recipe.loss.objective == "hidden":
        return config.hidden_size * plan.sizes.hidden_size * len(plan.layers[name])
    if recipe.loss.objective == "mlm":
        return config.embedding_width * (config.hidden_size + 3) + config.vocab_size
    return 0


def trained_bytes(recipe: DistillRecipe, plan: DistillPlan) -> int:
    """Weights, gradients and optimizer state of all that is trained."""
    return _STATE_BYTES * num_trained(recipe, plan)


def folder_bytes(recipe: DistillRecipe, plan: DistillPlan) -> dict[str, float]:
    """Bytes of a run folder by what holds them; a checkpoint and a model are complete before an older one goes."""
    weights, train = num_trained(recipe, plan), recipe.train
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


def existing_folder(path: Path) -> Path:
    """The folder itself, else the nearest above it that exists."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


def shown_size(count: float) -> str:
    """Bytes in the largest unit of which there is one."""
    for unit in ("MiB", "GiB"):
        count /= 1024 if unit == "GiB" else 2**20
        if count < 1024:
            break
    return f"{count:,.1f} {unit}"
