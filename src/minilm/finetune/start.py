"""The model that a fine-tuning run starts from: an encoder, and its own head where that has the task's labels.

In: a model folder or `.bin`, a task. Out: which rows of the model's head are kept, in the order of the task's labels; a
`Model` to train.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minilm.errors import DataError, UsageError
from minilm.finetune.task import Task
from minilm.model.checkpoint import add_pooler, read_model
from minilm.model.config import EncoderConfig, require_absolute
from minilm.model.encoder import Encoder
from minilm.model.heads import ClassificationHead, Model, TokensHead, new_head
from minilm.model.metadata import LABELLED, label_names, read_config, read_problem, saved_head, untied_output
from minilm.randomness import derived_seed
from minilm.recipe import HeadChoice, Seq2SeqSection, TaskSection
from minilm.score.glue import label_key

logger = logging.getLogger(__name__)

_MAX_NAMES = 8


@dataclass(frozen=True, kw_only=True)
class StartHead:
    """What becomes of the head of the model.

    Attributes:
        choice: `task.head`.
        rows: rows of the model's own head, one for each label of the task; None: all, as they are.
        replaced: why the model's own head is replaced by a new one; "" if it is not.
        reordered: in which order its rows are put; "" if that is their own.
    """

    choice: HeadChoice = "auto"
    rows: tuple[int, ...] | None = None
    replaced: str = ""
    reordered: str = ""


def require_trainable(path: Path, section: TaskSection, *, config: Path | None) -> EncoderConfig:
    """Check that the model can be fine-tuned on this kind of task, before any data is read; return its sizes.

    Raises:
        DataError: the model's family is not supported, or its mlm head, which the task needs, is not.
        UsageError: the family cannot be trained as sequence-to-sequence.
    """
    shape = read_config(path, config=config)
    if isinstance(section, Seq2SeqSection):
        require_absolute(shape)
        if untied := untied_output(path, config=config):
            raise DataError(untied)
    return shape


def start_head(path: Path, task: Task, *, choice: HeadChoice = "auto", config: Path | None = None) -> StartHead:
    """Align the model's own head with the labels of the task, by name.

    Names match without regard to case; `LABEL_1` is the label `1`. A head whose labels have no names (`LABEL_0`) is
    not matched with as many named ones: which is which is not known.

    Args:
        path: the model.
        task: the task.
        choice: `auto` keeps a head with the labels of the task and replaces any other; `keep` rejects any other.
        config: the model's configuration if it is not in its folder.

    Raises:
        UsageError: the head is to be kept, but there is none or it has other labels; or its labels have no names.
        DataError: the configuration cannot be read.
    """
    if task.head not in LABELLED:
        return StartHead()
    found = saved_head(path, config=config)
    if found != task.head:
        if choice == "keep":
            raise UsageError(f"task.head is 'keep', but {path} has no {task.head} head; set it to 'auto' or 'fresh'")
        return StartHead(choice=choice, replaced=f"it is a {found} head" if found in LABELLED else "")
    if choice == "fresh":
        return StartHead(choice=choice, replaced="task.head is 'fresh'")
    own = label_names(path, config=config)
    problem = read_problem(path, config=config) if task.head == "classification" else None
    if problem == task.problem == "regression":
        return StartHead(choice=choice)
    if problem != task.problem:
        replaced = f"it was trained for {problem}, the task is {task.problem}"
    else:
        rows = _aligned(own, task.labels)
        if rows is not None:
            order = f"its labels {_listed(own)} are put in the order of the task: {_listed(task.labels)}"
            return StartHead(choice=choice, rows=rows, reordered=order if list(rows) != sorted(rows) else "")
        _require_names(path, own, task.labels)
        replaced = f"its labels are {_listed(own)}, those of the task {_listed(task.labels)}"
        if len(own) == len(task.labels) and _are_numbers(task.labels):
            replaced += f" (if they are the same in this order, set task.labels to [{', '.join(own)}])"
    if choice == "keep":
        raise UsageError(f"task.head is 'keep', but the head of {path} does not fit: {replaced}; set it to 'fresh'")
    return StartHead(choice=choice, replaced=replaced)


def start_model(
    path: Path, task: Task, *, seed: int, config: Path | None = None, head: StartHead | None = None
) -> Model:
    """The encoder at `path` with the task's head: the stored one as `head` says, else a freshly initialized one.

    Args:
        path: the model.
        task: the task.
        seed: seed of the initialized weights.
        config: the model's configuration if it is not in its folder.
        head: the result of `start_head`; None: that of `auto`.

    Raises:
        UsageError: the head is to be kept, but the model has no weights for it; or as for `start_head`.
        DataError: the model cannot be read.
    """
    head = start_head(path, task, config=config) if head is None else head
    fresh = derived_seed(seed, "head")
    if task.head is None:
        return read_model(path, config=config, head=None).train()
    if not head.replaced:
        model = read_model(path, config=config, head=task.head, num_labels=_num_labels(task), seed=fresh)
        if head.choice == "keep" and model.has_fresh_weights:
            raise UsageError(f"task.head is 'keep', but {path} has no weights for it; set it to 'auto' or 'fresh'")
        if head.rows is not None:
            assert isinstance(model.head, ClassificationHead | TokensHead)
            out, rows = model.head.out, list(head.rows)
            if head.reordered:
                logger.warning("the head of %s is kept; %s", path, head.reordered)
            out.weight.data, out.bias.data = out.weight.data[rows], out.bias.data[rows]
        return model.train()
    logger.warning("the head of %s is replaced by a freshly initialized one: %s", path, head.replaced)
    return with_fresh_head(read_model(path, config=config).encoder, task, seed=fresh)


def with_fresh_head(encoder: Encoder, task: Task, *, seed: int) -> Model:
    """An encoder with a freshly initialized head for the task, which has one."""
    assert task.head is not None
    generator = torch.Generator().manual_seed(seed)
    if encoder.pooler is None and task.head == "classification":
        add_pooler(encoder, generator)
    head = new_head(task.head, encoder.config, num_labels=_num_labels(task), generator=generator)
    return Model(encoder, head).train()


def _num_labels(task: Task) -> int:
    return len(task.labels) or (2 if task.head == "span" else 1)


def _aligned(own: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """For each wanted label its index in `own`; None if the two do not have the same names."""
    for key in (str, label_key):
        keys, wanted_keys = [key(name) for name in own], [key(name) for name in wanted]
        if len(keys) == len(wanted_keys) == len(set(keys)) and set(keys) == set(wanted_keys):
            return tuple(keys.index(name) for name in wanted_keys)
    return None


def _require_names(path: Path, own: Sequence[str], wanted: Sequence[str]) -> None:
    if len(own) == len(wanted) and all(name.casefold() == f"label_{index}" for index, name in enumerate(own)):
        raise UsageError(
            f"the head of {path} has the unnamed labels {_listed(own)}, the task {_listed(wanted)}: which is which is "
            f"not known; name them in id2label of the model's config.json, or set task.head to 'fresh'"
        )


def _are_numbers(labels: Sequence[str]) -> bool:
    return all(name == str(index) for index, name in enumerate(labels))


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _MAX_NAMES} more" if len(labels) > _MAX_NAMES else ""
    return ", ".join(f"{name:.40}" for name in labels[:_MAX_NAMES]) + more
