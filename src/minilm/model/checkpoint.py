"""Model files: a Hugging Face folder or Microsoft's original `.bin` in, a Hugging Face folder out.

In: a folder with `config.json` + `model.safetensors` or `pytorch_model.bin`, or their shards with an index; or a
`.bin` with its `…-config.json` next to it; the configuration may be elsewhere. Out: a `Model` with float32 weights.
No code in a model file is ever executed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from minilm.errors import DataError, UsageError
from minilm.files.json import write_json
from minilm.files.sentence_modules import transformer_folder
from minilm.files.tensors import read_safetensors, write_safetensors
from minilm.files.torch_bin import read_torch_bin
from minilm.model.activations import Activation
from minilm.model.config import FAMILIES, EncoderConfig
from minilm.model.encoder import Encoder, reset_weights
from minilm.model.heads import HEADS, ClassificationHead, Model, TokensHead, new_head
from minilm.model.metadata import (
    ARCHITECTURES,
    HeadName,
    ProblemType,
    activation_values,
    is_microsoft,
    num_scores,
    read_config,
    untied_output,
)
from minilm.model.positions import tile_positions
from minilm.model.tensor_names import hf_names, missing_tensors, to_hf, to_ours
from minilm.model.weights import merged, require_shapes
from minilm.model.without_weights import without_weights

logger = logging.getLogger(__name__)


def read_model(
    path: Path | str,
    *,
    config: Path | None = None,
    head: HeadName | None = None,
    num_labels: int | None = None,
    fresh_head: bool = True,
    seed: int = 0,
) -> Model:
    """Read a model; missing weights of `head` (or of a classifier's pooler) are initialized, with a warning.

    Args:
        path: a Hugging Face folder, or Microsoft's `.bin` with its configuration next to it.
        config: the configuration (file or folder) if it is elsewhere.
        head: the head to add; None for the encoder alone.
        num_labels: classes of a new head; None to read it from the configuration.
        fresh_head: whether a head that the file lacks is initialized; else it is left out.
        seed: seed of the initialized weights.

    Raises:
        DataError: tensors are missing, unexpected or have wrong shapes; the message lists them. Or the mlm head has a
            separate output table.
    """
    path = transformer_folder(Path(path))
    shape = read_config(path, config=config)
    if head == "mlm" and (untied := untied_output(path, config=config)):
        raise DataError(untied)
    file, tensors = read_tensors(path)
    if num_labels is None:
        num_labels = num_scores(path, head, config=config)
    generator = torch.Generator().manual_seed(seed)
    with without_weights():  # names and shapes are compared before any memory is taken
        encoder = Encoder(shape, pooler=True if head == "classification" else None)
        model = Model(encoder, None if head is None else HEADS[head](shape, num_labels))
    found = to_ours(tensors, model.state_dict(), family=shape.family, head=head, where=str(file))
    if is_microsoft(path):
        found = _resize_positions(found, shape)
    fresh = _fresh_weights(model, found, str(file))
    shapes, expected = (
        {name: tuple(tensor.shape) for name, tensor in weights.items()} for weights in (found, model.state_dict())
    )
    require_shapes(shapes, expected, family=shape.family, head=head, where=str(file))
    if not fresh_head and any(name.startswith("head.") for name in fresh):
        head, model.head = None, None
        fresh = [name for name in fresh if not name.startswith("head.")]
    if head is not None:
        model.head = new_head(head, shape, num_labels=num_labels, generator=generator)
    _drop_or_start_missing(model, fresh, head, str(file), generator)
    model.load_state_dict({name: tensor.float() for name, tensor in found.items()}, strict=False, assign=True)
    return model.eval().requires_grad_(True)


def add_pooler(encoder: Encoder, generator: torch.Generator) -> None:
    """Give an encoder a freshly initialized pooler."""
    config = encoder.config
    encoder.pooler = torch.nn.Linear(config.hidden_size, config.hidden_size)
    reset_weights(encoder.pooler, config.initializer_range, generator)


def write_model(
    model: Model,
    folder: Path,
    *,
    head: HeadName | None = None,
    labels: Sequence[str] = (),
    problem: ProblemType = "single_label_classification",
    activation: Activation | None = None,
) -> None:
    """Write `config.json` and `model.safetensors` with Hugging Face names; `folder` must exist.

    `labels` and `problem` (what the scores of a classification head are) go into the configuration. So does the
    `activation` of a reranker's one score, which every release of sentence-transformers reads there; None for a model
    that is not a reranker.

    Raises:
        UsageError: `head` is not the head of `model`, `labels` does not have one name per class, or there is an
            `activation` without one score.
    """
    if activation is not None and problem != "regression":
        raise UsageError(f"activation is {activation!r} and problem is {problem!r}; expected 'regression', one score")
    if type(model.head) is not (HEADS[head] if head else type(None)):
        raise UsageError(f"head is {head!r}, but the model has {type(model.head).__name__}; pass the model's own head")
    if isinstance(model.head, ClassificationHead | TokensHead):
        labels = labels or [f"LABEL_{index}" for index in range(model.head.out.out_features)]
        if len(labels) != model.head.out.out_features:
            raise UsageError(
                f"found {len(labels)} labels for {model.head.out.out_features} classes; expected one name per class"
            )
    config = model.encoder.config
    values = config.to_hf()
    if head is not None:
        suffix = next(suffix for suffix, name in ARCHITECTURES.items() if name == head)
        values["architectures"] = [FAMILIES[config.family].architecture + suffix]
    if labels:
        values["id2label"] = {str(index): label for index, label in enumerate(labels)}
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    if problem != "single_label_classification":  # the default of Hugging Face's library for several labels
        values["problem_type"] = problem
    if activation is not None:
        values |= activation_values(activation)
    tensors = to_hf(model.state_dict(), family=config.family, head=head)
    write_safetensors(folder / "model.safetensors", tensors, metadata={"format": "pt"})
    write_json(folder / "config.json", values)


def read_tensors(path: Path) -> tuple[Path, dict[str, Tensor]]:
    """All tensors of the model at `path`, and the file to mention in messages."""
    return merged(path, lambda file: (read_safetensors if file.suffix == ".safetensors" else read_torch_bin)(file))


def _resize_positions(found: dict[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    """Resize the position table to the configuration as Microsoft's loader does."""
    name = "encoder.embeddings.position.weight"
    table = found.get(name)
    if table is None or table.dim() != 2 or len(table) <= config.first_position or len(table) == config.max_positions:
        return found
    logger.warning(
        "position table resized from %d to %d rows to match the configuration",
        len(table),
        config.max_positions,
    )
    return {**found, name: tile_positions(table, config.max_positions, first=config.first_position)}


def _fresh_weights(model: Model, found: Mapping[str, Tensor], where: str) -> list[str]:
    """The missing weights that may be initialized: those of a head and a pooler; raises for any other."""
    missing = [name for name in model.state_dict() if name not in found]
    half_pooler = len([name for name in found if name.startswith("encoder.pooler.")]) == 1
    may_start = ("head.",) if half_pooler else ("head.", "encoder.pooler.")
    fresh = [name for name in missing if name.startswith(may_start)]
    if set(missing) - set(fresh):
        family = model.encoder.config.family
        absent = [
            theirs for name in missing if name not in fresh for theirs in hf_names(name, family=family, head=None)
        ]
        raise missing_tensors(absent, where)
    return fresh


def _drop_or_start_missing(
    model: Model, fresh: Sequence[str], head: HeadName | None, where: str, generator: torch.Generator
) -> None:
    """Drop a missing pooler that is not read, or initialize it; report weights that are `fresh`."""
    if "encoder.pooler.weight" in fresh:
        if head != "classification":
            model.encoder.pooler = None
            fresh = [name for name in fresh if name.startswith("head.")]
        else:
            add_pooler(model.encoder, generator)
    model.has_fresh_weights = bool(fresh)
    if head is not None and fresh:
        logger.warning("%s has no trained %s head; initialized %d tensors randomly", where, head, len(fresh))
