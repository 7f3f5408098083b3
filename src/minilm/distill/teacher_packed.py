"""A teacher of transformers that runs packed: no padding, and nothing after the wanted projections.

In: a model whose attention goes through transformers' attention interface, where `packed_attention` is registered.
Out: `Relations`. The model's own code sees one row of T tokens with explicit positions; our attention separates the
sequences.

T packed tokens, H heads, D head width.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from minilm.distill.projections import LayerReached
from minilm.distill.shapes import TeacherSizes
from minilm.distill.teacher_base import Teacher
from minilm.errors import DataError, UsageError
from minilm.model.attention import attend
from minilm.model.encoder import Relations
from minilm.model.packing import Packed


@dataclass
class _Recording:
    """A forward pass in progress: its batch, the requested layer, and what was recorded."""

    packed: Packed
    wanted: int
    calls: int = 0
    found: Relations | None = field(default=None)


_current: ContextVar[_Recording] = ContextVar("minilm_packed_recording")


class PackedTeacher(Teacher):
    """A transformers model that uses our attention; see `load_teacher`."""

    def __init__(self, model: nn.Module, *, sizes: TeacherSizes, first_position: int) -> None:
        """Wrap a model that counts positions from `first_position`."""
        super().__init__(sizes)
        self._model = model
        self._first_position = first_position
        self._has_segments = "token_type_ids" in inspect.signature(model.forward).parameters

    @property
    def engine(self) -> str:
        """What computes it."""
        return "transformers, packed"

    @torch.inference_mode()
    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the layer, after any rotary embedding, each `[T, H, D]` in the model's precision."""
        recording = _Recording(packed=packed, wanted=self.layer)
        token = _current.set(recording)
        try:
            self._model(
                input_ids=packed.token_ids[None],
                position_ids=packed.position_ids[None] + self._first_position,
                attention_mask=None,
                **({"token_type_ids": packed.segment_ids[None]} if self._has_segments else {}),
            )
        except LayerReached:
            pass
        finally:
            _current.reset(token)
        if recording.calls == 0:
            raise NoInterface(f"teacher: {type(self._model).__name__} does not use the interface of transformers")
        if recording.found is None:
            raise UsageError(
                f"teacher.layer is {self.layer}, but the model has {recording.calls} attention layers; "
                f"change teacher.layer"
            )
        return recording.found


class NoInterface(DataError):
    """The attention of a model does not go through the interface of transformers."""


def masks_itself(model: nn.Module, where: str) -> DataError:
    """The refusal of a model with causal attention."""
    return DataError(
        f"teacher {where}: the attention of {type(model).__name__} is causal, that of a student is not; choose a "
        "bidirectional encoder, such as BERT, as the teacher"
    )


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,  # noqa: ANN401 (what transformers passes varies by model)
) -> tuple[Tensor, None]:
    """The attention that transformers calls in each layer, `[1, H, T, D]`; records the requested layer and stops."""
    recording = _current.get()
    recording.calls += 1
    if attention_mask is not None:
        raise NoInterface(f"teacher: {type(module).__name__} masks packed rows")
    rows = [part[0].transpose(0, 1) for part in (query, key, value)]
    if recording.calls == recording.wanted:
        recording.found = Relations(query=rows[0], key=rows[1], value=rows[2])
        raise LayerReached
    attended = attend(
        rows[0],
        rows[1],
        rows[2],
        recording.packed,
        scale=settings.get("scaling"),
        window=settings.get("sliding_window"),
    )
    return attended[None], None
