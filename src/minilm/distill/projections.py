"""Queries, keys and values of layers, taken from a padded run of a model of transformers by hooks on its modules.

In: a model, layers, a padded batch. Out: `Projected`: what their attention multiplies, and that attention if asked for;
nothing after the last layer's attention is computed. Families whose attention has a common interface need no row here:
`teacher_padded.py` records what they pass to it.

B sequences, N tokens of a padded row, H heads, D head width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from minilm.errors import DataError

PARTS = ("query", "key", "value")
"""What relations are made of, by the names of their attributes."""
_SMALLEST = 1e-30  # probability whose logarithm is taken


@dataclass(frozen=True, kw_only=True)
class Projected:
    """What the attention of a layer multiplies: after the projections and any rotary step.

    Attributes:
        query: `[B, N, H, D]`.
        key: the same; keys and values may have fewer heads.
        value: the same.
        attention: the model's own attention probabilities `[B, H, N, N]`, if asked for and available.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    attention: Tensor | None = None


class LayerReached(Exception):
    """Ends the model's forward pass: all that is wanted of the layer has been recorded."""


Outputs = Mapping[str, Tensor]
Finish = Callable[[Any, Outputs, Mapping[str, Any], int], tuple[Tensor, Tensor, Tensor]]
"""(attention module, outputs of its projections `[B, N, width]`, its keyword arguments, H) -> `[B, N, H, D]` each."""


def _in_heads(_: nn.Module, outputs: Outputs, __: Mapping[str, Any], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (rows.unflatten(-1, (heads, -1)) for rows in outputs.values())
    return query, key, value


def _of_one_map(module: Any, outputs: Outputs, _: Mapping[str, Any], heads: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    """One map holds query, key and value of each head in turn; biases are added after it, the key has none."""
    (rows,) = outputs.values()
    query, key, value = rows.unflatten(-1, (heads, -1)).chunk(3, dim=-1)
    return query + module.q_bias.view(heads, -1), key, value + module.v_bias.view(heads, -1)


def _rotated(module: Any, outputs: Outputs, given: Mapping[str, Any], heads: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    """After the model's own rotary step."""
    parts = [rows.transpose(1, 2) for rows in _in_heads(module, outputs, given, heads)]
    turned = 3 if module.rotary_value else 2
    parts[:turned] = module.apply_rotary_position_embeddings(given["sinusoidal_pos"], *parts[:turned])
    query, key, value = (part.transpose(1, 2) for part in parts)
    return query, key, value


@dataclass(frozen=True, kw_only=True)
class Names:
    """Where a family's attention has its projections: the layers are the modules that have these children, in order.

    Attributes:
        modules: the children that project: query, key and value, or one map for all three.
        finish: from their outputs to heads.
        terms: what the scores have besides the product of queries and keys, in words.
    """

    modules: tuple[str, ...]
    finish: Finish = field(default=_in_heads)
    terms: str = ""


_BERT = ("query", "key", "value")
FAMILIES_WITH_HOOKS: Mapping[str, Names] = {
    "convbert": Names(modules=_BERT),
    "deberta": Names(modules=("in_proj",), finish=_of_one_map, terms="terms of relative positions"),
    "deberta-v2": Names(modules=("query_proj", "key_proj", "value_proj"), terms="terms of relative positions"),
    "megatron-bert": Names(modules=_BERT),
    "mpnet": Names(modules=("q", "k", "v"), terms="a bias of relative positions"),
    "roformer": Names(modules=_BERT, finish=_rotated),
}
"""Value of `model_type` -> its projections; the attention of these families has no common interface."""

_USUAL = (*(names.modules for names in FAMILIES_WITH_HOOKS.values() if len(names.modules) == 3),)
_MORE = (("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"), ("query_layer", "key_layer", "value_layer"))


@dataclass(frozen=True, kw_only=True)
class Attentions:
    """The attention modules of a model in the order of its layers, and the names of their projections."""

    modules: tuple[nn.Module, ...]
    names: Names
    listed: bool

    def heads(self, layer: int, otherwise: int) -> int:
        """H of a layer (from 1)."""
        return int(getattr(self.modules[layer - 1], "num_attention_heads", None) or otherwise)

    def widths(self, layer: int) -> tuple[int, int] | None:
        """Widths of queries and of keys of a layer, from the shapes of their maps; None if one map holds both."""
        if len(self.names.modules) == 1:
            return None
        maps = [getattr(self.modules[layer - 1], name) for name in self.names.modules[:2]]
        query, key = (int(getattr(one, "out_features", 0) or one.weight.shape[0]) for one in maps)
        return query, key


def find_attentions(model: Any) -> Attentions | None:  # noqa: ANN401 (a transformers model has no public static type)
    """The attention of each layer, by the family's row, else by the usual names; None if there is none."""
    listed = FAMILIES_WITH_HOOKS.get(model.config.model_type)
    for names in [listed] if listed else [Names(modules=one) for one in dict.fromkeys((*_USUAL, *_MORE))]:
        found = [module for module in model.modules() if _has(module, names.modules)]
        if found:
            return Attentions(modules=tuple(found), names=names, listed=listed is not None)
    return None


def _has(module: nn.Module, names: tuple[str, ...]) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Module) for name in names)


@dataclass
class _Seen:
    """What hooks saw of a layer."""

    module: Any  # the attention of a model of transformers, which has no public static type
    outputs: dict[str, Tensor] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    attention: Tensor | None = None


class HookRecorder:
    """Runs a model padded and takes the projections of layers by hooks."""

    def __init__(self, model: Any, attentions: Attentions, *, layers: Sequence[int], heads: int) -> None:  # noqa: ANN401
        """Take those of layers (from 1) with that many heads."""
        self._model, self._names, self._heads = model, attentions.names, heads
        self._modules = {layer: attentions.modules[layer - 1] for layer in sorted(layers)}
        self.terms, self.listed = attentions.names.terms, attentions.listed

    def record(self, inputs: Mapping[str, Tensor], *, attention: bool = False) -> dict[int, Projected]:
        """Run a padded batch up to the last layer; with `attention` its probabilities too."""
        seen = {layer: _Seen(module=module) for layer, module in self._modules.items()}
        with self._watching(list(seen.values()), attention), contextlib.suppress(LayerReached):
            self._model(**inputs, **({"output_attentions": True} if attention else {}))
        return {layer: self._projected(one) for layer, one in seen.items()}

    def _projected(self, seen: _Seen) -> Projected:
        if len(seen.outputs) < len(self._names.modules):
            raise DataError(f"teacher: {type(seen.module).__name__} does not run its {', '.join(self._names.modules)}")
        ordered = {name: seen.outputs[name] for name in self._names.modules}
        query, key, value = self._names.finish(seen.module, ordered, seen.given, self._heads)
        return Projected(query=query, key=key, value=value, attention=seen.attention)

    @contextlib.contextmanager
    def _watching(self, layers: Sequence[_Seen], attention: bool) -> Iterator[None]:
        handles = [handle for seen in layers for handle in self._hooks(seen, attention, seen is layers[-1])]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, seen: _Seen, attention: bool, is_last: bool) -> list[RemovableHandle]:
        def started(_: nn.Module, __: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            seen.given.update(keywords)

        def projected(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_: nn.Module, __: Any, output: Tensor) -> None:  # noqa: ANN401
                # some project their embeddings of distances with the same map later
                seen.outputs.setdefault(name, output)
                if is_last and len(seen.outputs) == len(self._names.modules) and not attention:
                    raise LayerReached

            return hook

        def attended(_: nn.Module, __: Any, output: Any) -> None:  # noqa: ANN401
            shaped = [part for part in output if isinstance(part, Tensor)] if isinstance(output, tuple) else []
            square = [part for part in shaped[1:] if part.dim() == 4 and part.shape[-1] == part.shape[-2]]
            seen.attention = square[0] if square else None
            if is_last:
                raise LayerReached

        module = seen.module
        handles = [module.register_forward_pre_hook(started, with_kwargs=True)]
        handles += [getattr(module, name).register_forward_hook(projected(name)) for name in self._names.modules]
        handles += [module.register_forward_hook(attended)] if attention else []
        return handles


def log_attention(probabilities: Tensor) -> Tensor:
    """Logarithms of attention probabilities in float32, finite also where one is 0."""
    return probabilities.float().clamp_min(_SMALLEST).log()


def unlike_product(found: Projected) -> float:
    """How far the model's attention is from softmax(QKᵀ / √D): largest difference of the logarithms, over its rows."""
    assert found.attention is not None
    query, key = found.query.transpose(1, 2), found.key.transpose(1, 2)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    expected = torch.log_softmax((query @ key.mT).float() / query.shape[-1] ** 0.5, -1)
    likely = expected > expected.amax(-1, keepdim=True) - 10  # far smaller ones are rounded away
    return float((log_attention(found.attention) - expected).abs()[likely].max())
