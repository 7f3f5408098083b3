"""Which way a model of transformers runs as a teacher: packed if its numbers stay the same, else padded.

In: a loaded model. Out: a `Teacher` whose rows were compared with those of single runs through the model's own
attention; or one line that says why there is none. Here is also found whether that attention is the product of queries
and keys alone.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilm.distill.projections import PARTS, HookRecorder, Projected, find_attentions, unlike_product
from minilm.distill.teacher_base import Teacher, Wanted
from minilm.distill.teacher_files import first_line
from minilm.distill.teacher_packed import NoInterface, PackedTeacher, masks_itself
from minilm.distill.teacher_padded import InterfaceRecorder, PaddedTeacher, Recorder, hidden_rows
from minilm.errors import DataError, MinilmError
from minilm.model.packing import pack
from minilm.recipe.student_shape import TeacherSizes

logger = logging.getLogger(__name__)

PACKED, PADDED = "minilm_packed", "minilm_padded"
"""Names of our attention functions in transformers' attention interface."""
_CHECKED_TOKENS = 150  # at least, and more than local attention reaches
_WINDOWS = ("local_attention", "sliding_window", "attention_window")  # how families call what that reaches
_SAME_ROWS = 1e-3
_SAME_ATTENTION = 1e-2  # largest difference of logarithms


def packed_teacher(model: Any, sizes: TeacherSizes, where: str, wanted: Wanted) -> Teacher | None:  # noqa: ANN401
    """The model as a packed teacher, which uses the attention PACKED; None if it must run padded.

    Raises:
        DataError: its attention is causal; its code fails.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return None
    teacher = PackedTeacher(model, sizes=sizes, wanted=wanted, first_position=first_position(model))
    texts = _texts(model, sizes)
    try:
        together = _together(teacher, texts, wanted)
        _, apart = _by_interface(model, sizes, wanted, texts, where)
        expected = _rows_apart(model, apart, texts, wanted, where)
    except NoInterface:
        return None
    except MinilmError:
        raise
    except Exception:  # of any kind: the model's code is foreign, and may reject a row of this length
        return None
    plain = _is_plain(apart)
    if not _agree(together, expected) or (wanted.attention and not plain):
        return None
    if _is_causal(model, texts[0]):
        raise masks_itself(model, where)
    if not plain and not wanted.hidden:
        _say_what_is_related(where, sizes.layer)
    model.set_attn_implementation(PACKED)
    teacher.sizes = _sizes_by_rows(sizes, apart[0][wanted.last])
    return teacher


def padded_teacher(model: Any, sizes: TeacherSizes, where: str, wanted: Wanted) -> Teacher:  # noqa: ANN401
    """The model as a padded teacher, which computes attention itself.

    Raises:
        DataError: its attention is causal, is not known, or does not go with the loss; its code fails.
    """
    texts = _texts(model, sizes)
    recorder, apart = _recorder(model, sizes, wanted, texts, where)
    if _is_causal(model, texts[0]):
        raise masks_itself(model, where)
    name = type(model).__name__
    plain = _is_plain(apart)
    if not wanted.hidden and not plain:
        _require_known_terms(name, recorder, apart, wanted, where, sizes.layer)
    teacher = PaddedTeacher(model, recorder, sizes=_sizes_by_rows(sizes, apart[0][wanted.last]), wanted=wanted)
    expected = _rows_apart(model, apart, texts, wanted, where)
    if not _agree(_together(teacher, texts, wanted), expected):
        teacher.equal_lengths = True
        if not _agree(_together(teacher, texts, wanted), expected):
            raise DataError(
                f"teacher {where}: {name} gives other numbers in a batch than for single texts; choose a teacher of "
                "another family, such as BERT"
            )
    teacher.own_attention = wanted.attention and not plain
    return teacher


def _require_known_terms(
    name: str,
    recorder: Recorder,
    apart: Sequence[Mapping[int, Projected]],
    wanted: Wanted,
    where: str,
    layer: int,
) -> None:
    """What is in an attention that is not the product of its queries and keys alone must be known, or be compared."""
    if isinstance(recorder, HookRecorder) and not recorder.listed:
        raise DataError(
            f"teacher {where}: the attention of {name} is not the product of its queries and keys alone, and what else "
            "is in it is not known here; choose a teacher of another family, such as BERT, RoBERTa or MPNet"
        )
    if not wanted.attention:
        _say_what_is_related(where, layer, recorder.terms)
    elif not all(_is_distribution(found) for one in apart for found in one.values()):
        raise DataError(
            f"teacher {where}: loss.version v1 compares attention, and {name} does not give its own; use v2"
        )


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
    wanted: Wanted,
    texts: Sequence[np.ndarray],
    where: str,
) -> tuple[Recorder, list[Mapping[int, Projected]]]:
    """What records the layers, and the texts recorded one by one: the interface, else hooks on named projections."""
    attentions = find_attentions(model)
    if attentions is None or not attentions.listed:
        with contextlib.suppress(NoInterface):
            return _by_interface(model, sizes, wanted, texts, where)
    if attentions is None or len(attentions.modules) != sizes.num_layers:
        found = 0 if attentions is None else len(attentions.modules)
        raise DataError(
            f"teacher {where}: {type(model).__name__} has {sizes.num_layers} layers and {found} modules with query, "
            "key and value, expected one for each layer; choose a teacher of another family, such as BERT"
        )
    recorder = HookRecorder(model, attentions, layers=wanted.layers, heads=sizes.num_heads)
    return recorder, _apart(model, recorder, texts, where)


@torch.inference_mode()
def _by_interface(
    model: Any,  # noqa: ANN401
    sizes: TeacherSizes,
    wanted: Wanted,
    texts: Sequence[np.ndarray],
    where: str,
) -> tuple[Recorder, list[Mapping[int, Projected]]]:
    """What records the layers by the interface, which counts calls of attention, and the texts recorded one by one.

    Raises:
        NoInterface: attention does not go through it.
        DataError: there is not one call for each layer.
    """
    model.set_attn_implementation(PADDED)
    recorder = InterfaceRecorder(model, layers=wanted.layers)
    apart = _apart(model, recorder, texts, where)
    with _explaining(model, where):
        calls = recorder.count_calls({"input_ids": torch.from_numpy(texts[0])[None]})
    if calls != sizes.num_layers:
        raise DataError(
            f"teacher {where}: {type(model).__name__} has {sizes.num_layers} layers and computes attention {calls} "
            "times, expected once in each layer; choose a teacher of another family, such as BERT"
        )
    return recorder, apart


@torch.inference_mode()
def _apart(
    model: Any,  # noqa: ANN401
    recorder: Recorder,
    texts: Sequence[np.ndarray],
    where: str,
) -> list[Mapping[int, Projected]]:
    """Each text recorded by itself, with the model's attention."""
    with _explaining(model, where):
        return [recorder.record({"input_ids": torch.from_numpy(text)[None]}, attention=True) for text in texts]


@contextlib.contextmanager
def _explaining(model: nn.Module, where: str) -> Iterator[None]:
    """One line for whatever the code of a model raises."""
    try:
        yield
    except MinilmError:
        raise
    except Exception as error:  # of any kind: the model's code is foreign
        raise DataError(
            f"teacher {where}: transformers cannot run {type(model).__name__}: {first_line(error)}"
        ) from None


def _texts(model: Any, sizes: TeacherSizes) -> list[np.ndarray]:  # noqa: ANN401
    generator = np.random.default_rng(0)
    longest = min(max(_CHECKED_TOKENS, _window(model.config) + 1), sizes.max_tokens)
    lengths = [9, 8, 2, longest, longest - longest // 8]  # some share a padded batch
    texts = [generator.integers(5, model.config.vocab_size, size=length) for length in lengths]
    mask = getattr(model.config, "mask_token_id", None)
    if mask is not None and mask < model.config.vocab_size:
        texts[0][3] = mask  # ESM counts them
    return texts


def _window(config: Any) -> int:  # noqa: ANN401
    """How far local attention reaches, in tokens, at most; 0 where the configuration names no window."""
    named = [getattr(config, name, None) or 0 for name in _WINDOWS]
    return max(int(size) for value in named for size in (value if isinstance(value, (list, tuple)) else [value]))


def _together(teacher: Teacher, texts: Sequence[np.ndarray], wanted: Wanted) -> list[Tensor]:
    """The rows of a teacher for texts in one batch, `[T, ...]`: of each layer the hidden ones, or three projections."""
    packed = pack(texts)
    if wanted.hidden:
        return [teacher.hidden_of(packed)[layer] for layer in wanted.layers]
    found = teacher.relations_of(packed)
    return [getattr(found[layer], name) for layer in wanted.layers for name in PARTS]


@torch.inference_mode()
def _rows_apart(
    model: Any,  # noqa: ANN401
    apart: Sequence[Mapping[int, Projected]],
    texts: Sequence[np.ndarray],
    wanted: Wanted,
    where: str,
) -> list[Tensor]:
    """What `_together` gives, for texts one by one: recorded already, except for hidden rows."""
    if not wanted.hidden:
        rows = [(layer, name) for layer in wanted.layers for name in PARTS]
        return [torch.cat([getattr(one[layer], name)[0] for one in apart]) for layer, name in rows]
    with _explaining(model, where):
        found = [hidden_rows(model, {"input_ids": torch.from_numpy(text)[None]}, wanted) for text in texts]
    return [torch.cat([one[layer][0] for one in found]) for layer in wanted.layers]


def _agree(together: Sequence[Tensor], apart: Sequence[Tensor]) -> bool:
    """Whether rows of a batch are those of its texts run one by one."""
    return all(
        found.shape == expected.shape and torch.allclose(found, expected, atol=_SAME_ROWS, rtol=_SAME_ROWS)
        for found, expected in zip(together, apart, strict=True)
    )


def _is_plain(apart: Sequence[Mapping[int, Projected]]) -> bool:
    """Whether the attention of each layer is softmax(QKᵀ / √D); no, where it is not given."""
    return all(
        found.attention is not None and unlike_product(found) < _SAME_ATTENTION
        for one in apart
        for found in one.values()
    )


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
        "teacher %s: the attention of layer %d is not the product of queries and keys alone (%s); the loss "
        "relates its queries, keys and values, without that",
        where,
        layer,
        terms or "it has a bias, another scale or a window",
    )
