"""A teacher of transformers that runs packed: no padding, and nothing after the wanted projections.

In: a model whose attention goes through transformers' attention interface, where `packed_attention` is registered.
Out: `Relations`, or hidden rows. The model's own code sees one row of T tokens with explicit positions; our attention
separates the sequences.

T packed tokens, H heads, D head width, F hidden width.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from minilm.distill.projections import LayerReached
from minilm.distill.teacher_base import Teacher, Wanted
from minilm.errors import DataError, UsageError
from minilm.model.attention import attend
from minilm.model.encoder import Relations
from minilm.model.packing import Packed
from minilm.recipe.student_shape import TeacherSizes


@dataclass
class _Recording:
    """A forward pass in progress: its batch, the requested layers, and what was recorded."""

    packed: Packed
    wanted: tuple[int, ...]  # none: the pass goes to its end
    calls: int = 0
    found: dict[int, Relations] = field(default_factory=dict)


_current: ContextVar[_Recording] = ContextVar("minilm_packed_recording")


class PackedTeacher(Teacher):
    """A transformers model that uses our attention; see `load_teacher`."""

    def __init__(self, model: nn.Module, *, sizes: TeacherSizes, wanted: Wanted, first_position: int) -> None:
        """Wrap a model that counts positions from `first_position`."""
        super().__init__(sizes)
        self._model, self._wanted = model, wanted
        self._first_position = first_position
        self._has_segments = "token_type_ids" in inspect.signature(model.forward).parameters

    @property
    def engine(self) -> str:
        """What computes it."""
        return "transformers, packed"

    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the last layer, after any rotary embedding, `[T, H, D]` in the model's precision."""
        return self.relations_of(packed)[self._wanted.last]

    @torch.inference_mode()
    def relations_of(self, packed: Packed) -> dict[int, Relations]:
        """The same of each layer."""
        recording = _Recording(packed=packed, wanted=self._wanted.layers)
        self._run(recording)
        if len(recording.found) < len(set(self._wanted.layers)):
            raise UsageError(
                f"teacher.layer is {self._wanted.last}, but the model has {recording.calls} attention layers; "
                f"change teacher.layer"
            )
        return recording.found

    @torch.inference_mode()
    def hidden_of(self, packed: Packed) -> dict[int, Tensor]:
        """Rows after each layer, `[T, F]`; the model runs to its end."""
        recording = _Recording(packed=packed, wanted=())
        if self._wanted.output:
            rows: Any = self._run(recording)
            return {self._wanted.last: cast("Tensor", rows[0][0])}
        output: Any = self._run(recording, output_hidden_states=True)
        return {layer: cast("Tensor", output.hidden_states[layer][0]) for layer in self._wanted.layers}

    def _run(self, recording: _Recording, **settings: bool) -> object:
        """Run the model on a batch; returns what it does, unless the recording ends it."""
        packed, output = recording.packed, None
        token = _current.set(recording)
        try:
            output = self._model(
                input_ids=packed.token_ids[None],
                position_ids=packed.position_ids[None] + self._first_position,
                attention_mask=None,
                **({"token_type_ids": packed.segment_ids[None]} if self._has_segments else {}),
                **settings,
            )
        except LayerReached:
            pass
        finally:
            _current.reset(token)
        if recording.calls == 0:
            raise NoInterface(f"teacher: {type(self._model).__name__} does not use the interface of transformers")
        return output


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
    """The attention that transformers calls in each layer, `[1, H, T, D]`; records layers and stops at the last."""
    recording = _current.get()
    recording.calls += 1
    if attention_mask is not None:
        raise NoInterface(f"teacher: {type(module).__name__} masks packed rows")
    rows = [part[0].transpose(0, 1) for part in (query, key, value)]
    if recording.calls in recording.wanted:
        recording.found[recording.calls] = Relations(query=rows[0], key=rows[1], value=rows[2])
        if recording.calls == max(recording.wanted):
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
