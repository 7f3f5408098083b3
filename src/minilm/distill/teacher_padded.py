"""A teacher of transformers that runs padded, for models that cannot run packed: slower, with the same numbers.

In: a `Packed` batch, and a recorder that runs a padded one. Out: `Relations`, or hidden rows, of the packed tokens.
Sequences of similar length share a padded batch; where a model reads its padding (a convolution), only those of equal
length.

B sequences, T packed tokens, N tokens of one sequence, H heads, D head width, F hidden width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from minilm.distill.projections import PARTS, LayerReached, Projected, log_attention
from minilm.distill.teacher_base import Overhead, Teacher, Wanted
from minilm.distill.teacher_packed import NoInterface
from minilm.errors import DataError
from minilm.model.encoder import Relations
from minilm.model.packing import Packed, on_device
from minilm.recipe.student_shape import TeacherSizes

_MOST_TOKENS = 8192  # of a padded batch
_LEAST_FULL = 0.8  # the shortest sequence of a padded batch, of the longest

K = TypeVar("K")
Inputs = Mapping[str, Tensor]


class Recorder(Protocol):
    """Runs a model padded and records what the attention of layers multiplies."""

    terms: str

    def record(self, inputs: Inputs, *, attention: bool = False) -> Mapping[int, Projected]:
        """Run `input_ids` and what goes with them, `[B, N]` each, up to the last layer; with `attention` through it."""


@dataclass
class _Recording:
    wanted: tuple[int, ...]
    attention: bool
    calls: int = 0
    found: dict[int, Projected] = field(default_factory=dict)


_current: ContextVar[_Recording | None] = ContextVar("minilm_padded_recording", default=None)


def padded_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *rest: Any,  # noqa: ANN401 (what transformers passes varies by model)
    **settings: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor | None]:
    """The model's own eager attention, `[B, H, N, D]`; records requested layers, stops at the last."""
    recording = _current.get()
    eager = getattr(inspect.getmodule(type(module)), "eager_attention_forward", None)
    if eager is None:
        raise NoInterface(f"teacher: {type(module).__name__} has no function eager_attention_forward")
    if recording is None:
        output, weights = eager(module, query, key, value, *rest, **settings)
        return output, weights
    recording.calls += 1
    output, weights = query, None
    is_last = recording.calls == max(recording.wanted, default=0)
    if not is_last or recording.attention:
        output, weights = eager(module, query, key, value, *rest, **settings)
    if recording.calls in recording.wanted:
        rows = [part.transpose(1, 2) for part in (query, key, value)]
        kept = weights if recording.attention else None
        recording.found[recording.calls] = Projected(query=rows[0], key=rows[1], value=rows[2], attention=kept)
    if is_last:
        raise LayerReached
    return output, weights


class InterfaceRecorder:
    """Records what a model passes to `padded_attention`."""

    terms = ""

    def __init__(self, model: Any, *, layers: Sequence[int]) -> None:  # noqa: ANN401 (a transformers model has no static type)
        """Record layers (from 1)."""
        self._model, self._layers = model, tuple(layers)

    def record(self, inputs: Inputs, *, attention: bool = False) -> dict[int, Projected]:
        """Run a padded batch up to the last layer."""
        recording = self._run(inputs, _Recording(wanted=self._layers, attention=attention))
        if len(recording.found) < len(set(self._layers)):
            raise NoInterface(f"teacher: {type(self._model).__name__} does not use the interface of transformers")
        return recording.found

    def count_calls(self, inputs: Inputs) -> int:
        """How often the whole model computes attention."""
        return self._run(inputs, _Recording(wanted=(), attention=False)).calls

    def _run(self, inputs: Inputs, recording: _Recording) -> _Recording:
        """Run a padded batch up to the last layer that is wanted, or to its end where none is."""
        token = _current.set(recording)
        try:
            self._model(**inputs)
        except LayerReached:
            pass
        finally:
            _current.reset(token)
        return recording


class PaddedTeacher(Teacher):
    """A model of transformers that runs padded; see `load_teacher`."""

    def __init__(self, model: Any, recorder: Recorder, *, sizes: TeacherSizes, wanted: Wanted) -> None:  # noqa: ANN401
        """Wrap a model and what runs it.

        Attributes:
            equal_lengths: it reads its padding, so there must be none.
            own_attention: query and key are to give the attention of the model itself, whatever is in it.
        """
        super().__init__(sizes)
        names = ["attention_mask", *(["token_type_ids"] if getattr(model.config, "type_vocab_size", 0) else [])]
        self._names = [name for name in names if name in inspect.signature(model.forward).parameters]
        self._pad_id = int(getattr(model.config, "pad_token_id", None) or 0)
        self._model, self._recorder, self._wanted = model, recorder, wanted
        self.equal_lengths = self.own_attention = False

    @property
    def engine(self) -> str:
        """What computes it."""
        return "transformers, by length" if self.equal_lengths else "transformers, padded"

    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the last layer, each `[T, H, D]`."""
        return self.relations_of(packed)[self._wanted.last]

    @torch.inference_mode()
    def relations_of(self, packed: Packed) -> dict[int, Relations]:
        """Query, key and value of each layer, each `[T, H, D]`.

        With the model's own attention, `query` holds its logarithms and `key` unit vectors, so that their scaled
        product is that attention: `[T, H, W]`, W at least the length of the longest sequence.
        """

        def record(inputs: Inputs) -> dict[tuple[int, str], Tensor]:
            found = self._recorder.record(inputs, attention=self.own_attention)
            if self.own_attention:
                found = {layer: _own_attention(one, packed.max_len) for layer, one in found.items()}
            return {(layer, name): getattr(one, name) for layer, one in found.items() for name in PARTS}

        rows = self._packed_rows(packed, record)
        return {layer: Relations(**{name: rows[layer, name] for name in PARTS}) for layer in self._wanted.layers}

    @torch.inference_mode()
    def hidden_of(self, packed: Packed) -> dict[int, Tensor]:
        """Rows after each layer, `[T, F]`; the model runs to its end."""

        def run(inputs: Inputs) -> dict[int, Tensor]:
            return hidden_rows(self._model, inputs, self._wanted)

        return self._packed_rows(packed, run)

    def _packed_rows(self, packed: Packed, run: Callable[[Inputs], Mapping[K, Tensor]]) -> dict[K, Tensor]:
        """What `run` gives for padded batches, `[B, N, ...]`, without the padding: `[T, ...]`."""
        starts = [0, *accumulate(packed.lengths)]
        whole: dict[K, Tensor] = {}
        for group in length_groups(packed.lengths, equal=self.equal_lengths):
            found = run(self._inputs(packed, starts, group))
            rows = torch.cat([torch.arange(starts[one], starts[one + 1]) for one in group])
            rows = on_device(rows, packed.token_ids.device)
            for name, padded in found.items():
                kept = torch.cat([padded[row, : packed.lengths[one]] for row, one in enumerate(group)])
                if name not in whole:
                    whole[name] = kept.new_empty((packed.num_tokens, *kept.shape[1:]))
                whole[name][rows] = kept
        return whole

    def overhead(self, microbatches: Sequence[np.ndarray]) -> Overhead:
        """What it computes beyond a packed teacher, which takes each microbatch, given as lengths, as one batch."""
        used = computed = batches = 0
        for lengths in microbatches:
            known = lengths.tolist()
            groups = length_groups(known, equal=self.equal_lengths)
            used += sum(known)
            computed += sum(len(group) * known[group[0]] for group in groups)  # the first is the longest
            batches += len(groups)
        return Overhead(tokens=computed / used, batches=batches / len(microbatches))

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


def hidden_rows(model: Any, inputs: Inputs, wanted: Wanted) -> dict[int, Tensor]:  # noqa: ANN401
    """Rows after some layers of a model of transformers, `[B, N, F]` each.

    Raises:
        DataError: it does not give them.
    """
    if wanted.output:
        return {wanted.last: model(**inputs)[0]}
    states = model(**inputs, output_hidden_states=True).hidden_states
    if states is None or len(states) <= wanted.last:
        raise DataError(
            f"teacher: {type(model).__name__} does not give the rows of its layers; use loss.objective relations"
        )
    return {layer: states[layer] for layer in wanted.layers}


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
    logs = log_attention(found.attention) * width**0.5
    query = logs.new_zeros((batch, length, heads, width))
    query[..., :length] = logs.transpose(1, 2)
    key = torch.eye(length, width, device=logs.device)[None, :, None, :].expand(batch, -1, heads, -1)
    return Projected(query=query, key=key, value=found.value)
