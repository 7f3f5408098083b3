"""What a distillation costs: its tokens, operations and bytes, from shapes; nothing is measured here.

In: a recipe, its plan, lengths of documents. Out: numbers of a step and of a run folder.

T tokens, N tokens of a document, E hidden width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from minilm.distill.agreement import agreement_numbers
from minilm.distill.criteria import pair_weights
from minilm.distill.plan import DistillPlan
from minilm.model.config import EncoderConfig
from minilm.recipe import DistillRecipe, LossSection

RUN_PARTS = ("checkpoints", "model")
"""What a run replaces that takes room."""
_COMPRESSED, _EXPANSION = (".gz", ".parquet"), 3
_STATE_BYTES = 16  # of a trained weight: itself, its gradient, two moments of AdamW
_SAVED_BYTES = 12  # in a checkpoint: the weight and the moments
_TOKEN_BYTES = 100  # of a token in the files of a tokenizer
_ROW_BYTES, _NUMBER_BYTES = 600, 30  # a line of metrics.jsonl; besides, of a number without its name
_PROBE_NUMBERS, _PROBE_NAME = 4, 40  # scores of a student, and characters of a name
_DRAWN_BYTES = 2**16  # a curve or heat map in the report
_OTHER_BYTES = 2**20  # log, card, the rest of the report


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
    tokenizers = len(plan.students) * _TOKEN_BYTES * plan.tokenizer.vocab_size
    saved = min(train.keep_checkpoints, -(-train.steps // train.checkpoint_every)) + 1
    return {
        "checkpoints": float(_SAVED_BYTES * weights * saved),
        "models": float(2 * (4 * weights + tokenizers)),
        "metrics and report": float(_metrics_bytes(recipe, plan) + _OTHER_BYTES),
    }


def _metrics_bytes(recipe: DistillRecipe, plan: DistillPlan) -> int:
    """Lines of metrics, and what is drawn of them: an evaluation has two numbers for each student, pair and head.

    A run that is resumed writes the file once more before the old one goes.
    """
    train, loss, pairs = recipe.train, recipe.loss, list(pair_weights(recipe.loss))
    if loss.objective != "relations":
        pairs = []
    losses = [
        f"{name}.{part}" for name in plan.students for part in ([f"{a}-{b}" for a, b in pairs] or [loss.objective])
    ]
    none = torch.zeros(len(pairs), 2, plan.relation_heads)
    heldout = [key for name in plan.students for key in (f"{name}.heldout_loss", *agreement_numbers(name, pairs, none))]
    line = _ROW_BYTES + sum(len(key) + _NUMBER_BYTES for key in losses)
    evaluation = sum(len(key) + _NUMBER_BYTES for key in heldout)
    evaluations = 1 + (train.steps // train.eval_every if train.eval_every else 0)
    if recipe.probe is not None:
        evaluations += 1 + train.steps // recipe.probe.every
        evaluation += sum(_PROBE_NUMBERS * (len(name) + _PROBE_NAME + _NUMBER_BYTES) for name in plan.students)
    lines = (train.steps // train.log_every + evaluations) * line + evaluations * evaluation
    copies = 2 + 2 * train.tensorboard
    return copies * lines + _DRAWN_BYTES * 2 * len(losses)


def corpus_bytes(tokens: float, documents: float, *, vocab_size: int) -> float:
    """Bytes of the shards of a corpus."""
    return tokens * (2 if vocab_size <= 2**16 else 4) + 8 * documents


def text_bytes(files: Sequence[Path]) -> float:
    """Bytes of the text in files; a compressed file counts three times."""
    return float(sum(file.stat().st_size * (_EXPANSION if file.suffix in _COMPRESSED else 1) for file in files))


def shown_size(count: float) -> str:
    """Bytes in the largest unit of which there is one."""
    for unit in ("MiB", "GiB"):
        count /= 1024 if unit == "GiB" else 2**20
        if count < 1024:
            break
    return f"{count:,.1f} {unit}"
