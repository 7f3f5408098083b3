"""Which way a model of transformers runs as a teacher: packed if its numbers stay the same, else padded.

In: a loaded model. Out: a `Teacher` whose rows were compared with those of single runs through the model's own
attention; or one line that says why there is none. Here is also found whether that attention is the product of queries
and keys alone.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilm.distill.projections import HookRecorder, Projected, find_attentions, unlike_product
from minilm.distill.shapes import TeacherSizes
from minilm.distill.teacher_base import Teacher, Version
from minilm.distill.teacher_files import first_line
from minilm.distill.teacher_packed import NoInterface, PackedTeacher, masks_itself
from minilm.distill.teacher_padded import InterfaceRecorder, PaddedTeacher, Recorder
from minilm.errors import DataError, MinilmError
from minilm.model.encoder import Relations
from minilm.model.packing import pack

logger = logging.getLogger(__name__)

PACKED, PADDED = "minilm_packed", "minilm_padded"
"""Names of our attention functions in transformers' attention interface."""
_CHECKED_TOKENS = 150  # longer than the windows of local attention
_SAME_ROWS = 1e-3
_SAME_ATTENTION = 1e-2  # largest difference of logarithms


def packed_teacher(model: Any, sizes: TeacherSizes, where: str, version: Version) -> Teacher | None:  # noqa: ANN401
    """The model as a packed teacher, which uses the attention PACKED; None if it must run padded.

    Raises:
        DataError: its code fails.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return None
    teacher = PackedTeacher(model, sizes=sizes, first_position=first_position(model))
    texts = _texts(model, sizes)
    try:
        together = teacher.relations(pack(texts))
        model.set_attn_implementation(PADDED)
        apart = _apart(model, InterfaceRecorder(model, layer=sizes.layer), texts, where)
    except NoInterface:
        return None
    except MinilmError:
        raise
    except Exception:  # of any kind: the model's code is foreign, and may reject a row of this length
        return None
    plain = _is_plain(apart)
    if not _agree(together, apart) or (version == "v1" and not plain):
        return None
    if not plain:
        _say_what_is_related(where, sizes.layer)
    model.set_attn_implementation(PACKED)
    teacher.sizes = _sizes_by_rows(sizes, apart[0])
    return teacher


def padded_teacher(model: Any, sizes: TeacherSizes, where: str, version: Version) -> Teacher:  # noqa: ANN401
    """The model as a padded teacher, which computes attention itself.

    Raises:
        DataError: its attention is causal, is not known, or does not go with the version of the loss; its code fails.
    """
    texts = _texts(model, sizes)
    recorder, apart = _recorder(model, sizes, texts, where)
    if _is_causal(model, texts[0]):
        raise masks_itself(model, where)
    plain, name = _is_plain(apart), type(model).__name__
    if not plain and isinstance(recorder, HookRecorder) and not recorder.listed:
        raise DataError(
            f"teacher {where}: the attention of {name} is not the product of its queries and keys alone, and what else "
            "is in it is not known here; choose a teacher of another family, such as BERT, RoBERTa or MPNet"
        )
    if version == "v1" and not plain and not all(map(_is_distribution, apart)):
        raise DataError(
            f"teacher {where}: loss.version v1 compares attention, and {name} does not give its own; use v2"
        )
    if version == "v2" and not plain:
        _say_what_is_related(where, sizes.layer, recorder.terms)
    teacher = PaddedTeacher(model, recorder, sizes=_sizes_by_rows(sizes, apart[0]))
    if not _agree(teacher.relations(pack(texts)), apart):
        teacher.equal_lengths = True
        if not _agree(teacher.relations(pack(texts)), apart):
            raise DataError(
                f"teacher {where}: {name} gives other numbers in a batch than for single texts; choose a teacher of "
                "another family, such as BERT"
            )
    teacher.own_attention = version == "v1" and not plain
    return teacher


def first_position(model: nn.Module) -> int:
    """First position id: RoBERTa-style embeddings count from the padding id + 1, all others from 0."""
    embeddings: Any = getattr(model, "embeddings", None)
    counted = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None) is not None
    if counted or hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0


def _recorder(
    model: Any,  # noqa: ANN401
    sizes: TeacherSizes,
    texts: Sequence[np.ndarray],
    where: str,
) -> tuple[Recorder, list[Projected]]:
    """What records the layer, and the texts recorded one by one: the interface, else hooks on named projections."""
    attentions = find_attentions(model)
    if attentions is None or not attentions.listed:
        model.set_attn_implementation(PADDED)
        recorder: Recorder = InterfaceRecorder(model, layer=sizes.layer)
        try:
            return recorder, _apart(model, recorder, texts, where)
        except NoInterface:
            pass
    if attentions is None or len(attentions.modules) != sizes.num_layers:
        found = 0 if attentions is None else len(attentions.modules)
        raise DataError(
            f"teacher {where}: {type(model).__name__} has {sizes.num_layers} layers and {found} modules with query, "
            "key and value, expected one for each layer; choose a teacher of another family, such as BERT"
        )
    recorder = HookRecorder(model, attentions, layer=sizes.layer, heads=sizes.num_heads)
    return recorder, _apart(model, recorder, texts, where)


@torch.inference_mode()
def _apart(model: Any, recorder: Recorder, texts: Sequence[np.ndarray], where: str) -> list[Projected]:  # noqa: ANN401
    """Each text recorded by itself, with the model's attention."""
    try:
        return [recorder.record({"input_ids": torch.from_numpy(text)[None]}, attention=True) for text in texts]
    except MinilmError:
        raise
    except Exception as error:  # of any kind: the model's code is foreign
        raise DataError(
            f"teacher {where}: transformers cannot run {type(model).__name__}: {first_line(error)}"
        ) from None


def _texts(model: Any, sizes: TeacherSizes) -> list[np.ndarray]:  # noqa: ANN401
    generator = np.random.default_rng(0)
    longest = min(_CHECKED_TOKENS, sizes.max_tokens)
    lengths = [9, 8, 2, longest, longest - longest // 8]  # some share a padded batch
    texts = [generator.integers(5, model.config.vocab_size, size=length) for length in lengths]
    mask = getattr(model.config, "mask_token_id", None)
    if mask is not None and mask < model.config.vocab_size:
        texts[0][3] = mask  # ESM counts them
    return texts


def _agree(together: Relations, apart: Sequence[Projected]) -> bool:
    """Whether rows of a batch are those of its texts run one by one."""
    for name in ("query", "key", "value"):
        expected = torch.cat([getattr(one, name)[0] for one in apart])
        found: Tensor = getattr(together, name)
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=_SAME_ROWS, rtol=_SAME_ROWS):
            return False
    return True


def _is_plain(apart: Sequence[Projected]) -> bool:
    """Whether the attention is softmax(QKᵀ / √D); no, where it is not given."""
    return all(one.attention is not None and unlike_product(one) < _SAME_ATTENTION for one in apart)


def _is_distribution(found: Projected) -> bool:
    if found.attention is None:
        return False
    sums = found.attention.sum(-1)
    return bool((found.attention >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


@torch.inference_mode()
def _is_causal(model: Any, text: np.ndarray) -> bool:  # noqa: ANN401
    """Whether what follows a token changes nothing before it."""
    other = text.copy()
    other[-1] = 5 if text[-1] != 5 else 6
    first, second = (model(input_ids=torch.from_numpy(ids)[None])[0][0, :-1] for ids in (text, other))
    return torch.equal(first, second)


def _sizes_by_rows(sizes: TeacherSizes, found: Projected) -> TeacherSizes:
    """The sizes as computed, whatever the configuration says."""
    query, key = found.query.shape[2:], found.key.shape[2:]
    return replace(sizes, num_heads=query[0], query_width=query.numel(), key_width=key.numel())


def _say_what_is_related(where: str, layer: int, terms: str = "") -> None:
    logger.warning(
        "teacher %s: the attention of layer %d is not the product of queries and keys alone (%s); loss.version v2 "
        "relates its queries, keys and values, without that",
        where,
        layer,
        terms or "it has a bias, another scale or a window",
    )
