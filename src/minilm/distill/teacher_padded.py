"""A teacher of transformers that runs padded, for models that cannot run packed: slower, with the same numbers.

In: a `Packed` batch, and a recorder that runs a padded one. Out: `Relations` of the packed tokens. Sequences of similar
length share a padded batch; where a model reads its padding (a convolution), only those of equal length.

B sequences, T packed tokens, N tokens of one sequence, H heads, D head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from minilm.distill.projections import LayerReached, Projected
from minilm.distill.shapes import TeacherSizes
from minilm.distill.teacher_base import Teacher
from minilm.distill.teacher_packed import NoInterface
from minilm.errors import DataError
from minilm.model.encoder import Relations
from minilm.model.packing import Packed

_MOST_TOKENS = 8192  # of a padded batch
_LEAST_FULL = 0.8  # the shortest sequence of a padded batch, of the longest
_SMALLEST = 1e-30  # probability whose logarithm is taken


class Recorder(Protocol):
    """Runs a model padded and records what a layer's attention multiplies."""

    terms: str

    def record(self, inputs: Mapping[str, Tensor], *, attention: bool = False) -> Projected:
        """Run `input_ids` and what goes with them, `[B, N]` each, up to the layer; with `attention` through it."""


@dataclass
class _Recording:
    wanted: int
    attention: bool
    calls: int = 0
    found: Projected | None = None


_current: ContextVar[_Recording | None] = ContextVar("minilm_padded_recording", default=None)


def padded_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *rest: Any,  # noqa: ANN401 (what transformers passes varies by model)
    **settings: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor | None]:
    """The model's own eager attention, `[B, H, N, D]`; records the requested layer and stops."""
    recording = _current.get()
    eager = getattr(inspect.getmodule(type(module)), "eager_attention_forward", None)
    if eager is None:
        raise NoInterface(f"teacher: {type(module).__name__} has no function eager_attention_forward")
    if recording is None:
        output, weights = eager(module, query, key, value, *rest, **settings)
        return output, weights
    recording.calls += 1
    weights = None
    if recording.calls < recording.wanted or recording.attention:
        output, weights = eager(module, query, key, value, *rest, **settings)
    if recording.calls < recording.wanted:
        return output, weights
    rows = [part.transpose(1, 2) for part in (query, key, value)]
    recording.found = Projected(query=rows[0], key=rows[1], value=rows[2], attention=weights)
    raise LayerReached


class InterfaceRecorder:
    """Records what a model passes to `padded_attention`."""

    terms = ""

    def __init__(self, model: Any, *, layer: int) -> None:  # noqa: ANN401 (a transformers model has no static type)
        """Record a layer (from 1)."""
        self._model, self._layer = model, layer

    def record(self, inputs: Mapping[str, Tensor], *, attention: bool = False) -> Projected:
        """Run a padded batch up to the layer."""
        recording = _Recording(wanted=self._layer, attention=attention)
        token = _current.set(recording)
        try:
            self._model(**inputs)
        except LayerReached:
            pass
        finally:
            _current.reset(token)
        if recording.found is None:
            raise NoInterface(f"teacher: {type(self._model).__name__} does not use the interface of transformers")
        return recording.found


class PaddedTeacher(Teacher):
    """A model of transformers that runs padded; see `load_teacher`."""

    def __init__(self, model: Any, recorder: Recorder, *, sizes: TeacherSizes) -> None:  # noqa: ANN401
        """Wrap a model and what runs it.

        Attributes:
            equal_lengths: it reads its padding, so there must be none.
            own_attention: query and key are to give the attention of the model itself, whatever is in it.
        """
        super().__init__(sizes)
        names = ["attention_mask", *(["token_type_ids"] if getattr(model.config, "type_vocab_size", 0) else [])]
        self._names = [name for name in names if name in inspect.signature(model.forward).parameters]
        self._pad_id = int(getattr(model.config, "pad_token_id", None) or 0)
        self._recorder = recorder
        self.equal_lengths = self.own_attention = False

    @property
    def engine(self) -> str:
        """What computes it."""
        return "transformers, by length" if self.equal_lengths else "transformers, padded"

    @torch.inference_mode()
    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the layer, each `[T, H, D]`.

        With the model's own attention, `query` holds its logarithms and `key` unit vectors, so that their scaled
        product is that attention: `[T, H, W]`, W at least the length of the longest sequence.
        """
        starts = packed.cu_seqlens.tolist()
        whole: dict[str, Tensor] = {}
        for group in length_groups(packed.lengths, equal=self.equal_lengths):
            found = self._recorder.record(self._inputs(packed, starts, group), attention=self.own_attention)
            parts = _own_attention(found, packed.max_len) if self.own_attention else found
            rows = torch.cat([torch.arange(starts[one], starts[one + 1]) for one in group]).to(packed.token_ids.device)
            for name in ("query", "key", "value"):
                padded = getattr(parts, name)
                kept = torch.cat([padded[row, : packed.lengths[one]] for row, one in enumerate(group)])
                if name not in whole:
                    whole[name] = kept.new_empty((packed.num_tokens, *kept.shape[1:]))
                whole[name][rows] = kept
        return Relations(**whole)

    def share_of_padding(self, microbatches: Sequence[np.ndarray]) -> float:
        """The share of padding in what it computes for these microbatches, given the lengths of their sequences."""
        used = computed = 0
        for lengths in microbatches:
            known = lengths.tolist()
            used += sum(known)
            for group in length_groups(known, equal=self.equal_lengths):
                computed += len(group) * max(known[one] for one in group)
        return 1 - used / computed

    def _inputs(self, packed: Packed, starts: Sequence[int], group: Sequence[int]) -> dict[str, Tensor]:
        """A padded batch of some sequences: ids, and what else the model reads."""
        longest = max(packed.lengths[one] for one in group)
        shape, device = (len(group), longest), packed.token_ids.device
        ids = torch.full(shape, self._pad_id, device=device)
        mask, segments = (torch.zeros(shape, dtype=torch.long, device=device) for _ in range(2))
        for row, one in enumerate(group):
            part = slice(starts[one], starts[one + 1])
            ids[row, : packed.lengths[one]] = packed.token_ids[part]
            segments[row, : packed.lengths[one]] = packed.segment_ids[part]
            mask[row, : packed.lengths[one]] = 1
        available = {"attention_mask": mask, "token_type_ids": segments}
        return {"input_ids": ids, **{name: available[name] for name in self._names}}


def length_groups(lengths: Sequence[int], *, equal: bool) -> list[list[int]]:
    """Indices of sequences that share a padded batch, of similar length or of equal length, longest first."""
    groups: list[list[int]] = []
    for one in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        longest = lengths[groups[-1][0]] if groups else 0
        least = longest if equal else _LEAST_FULL * longest
        if groups and lengths[one] >= least and (len(groups[-1]) + 1) * longest <= _MOST_TOKENS:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _own_attention(found: Projected, longest: int) -> Projected:
    """Query and key whose product, divided by the root of their width, is the logarithm of the model's attention."""
    if found.attention is None:
        raise DataError("teacher: the model does not return its attention; use loss.version v2")
    batch, heads, length, _ = found.attention.shape
    width = -(-longest // 16) * 16
    logs = found.attention.float().clamp_min(_SMALLEST).log() * width**0.5
    query = logs.new_zeros((batch, length, heads, width))
    query[..., :length] = logs.transpose(1, 2)
    key = torch.eye(length, width, device=logs.device)[None, :, None, :].expand(batch, -1, heads, -1)
    return Projected(query=query, key=key, value=found.value)
