"""Conversion of weight names: published checkpoints <-> this encoder.

In: a mapping of tensors under Hugging Face, Microsoft or TF-era names.
Out: the same tensors under our names (`encoder.…`, `head.…`), and back.

A single function, `hf_names`, maps our names to those of a Hugging Face file. Reading and writing both use it, so
they cannot diverge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from minilm.errors import DataError
from minilm.model.config import FamilyName
from minilm.model.metadata import HeadName

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A", "Tensor", np.ndarray)
"""Tensors of torch, or arrays of numpy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Names:
    """The names of one family in Hugging Face files.

    Attributes:
        prefix: of the encoder in a model with a head.
        encoder: our prefix -> theirs, below that prefix.
        layers: what comes before the number of a layer.
        layer: our prefix -> theirs, below a layer.
        parts: the query, key and value maps of a layer.
        heads: our prefix -> theirs in a model with this head.
    """

    prefix: str
    encoder: Mapping[str, str]
    layers: str = "encoder.layer."
    layer: Mapping[str, str]
    parts: tuple[str, str, str]
    heads: Mapping[HeadName, Mapping[str, str]]


_FLOATS = {"float16", "bfloat16", "float32", "float64"}

_ENCODER: Mapping[str, str] = {
    "embeddings.word.": "embeddings.word_embeddings.",
    "embeddings.position.": "embeddings.position_embeddings.",
    "embeddings.segment.": "embeddings.token_type_embeddings.",
    "embeddings.norm.": "embeddings.LayerNorm.",
    "embeddings.project.": "embeddings_project.",
    "relative.table.": "encoder.relative_attention_bias.",
    "pooler.": "pooler.dense.",
}
_FFN: Mapping[str, str] = {
    "ffn_in.": "intermediate.dense.",
    "ffn_out.": "output.dense.",
    "ffn_norm.": "output.LayerNorm.",
}
_LAYER: Mapping[str, str] = {
    "attention_out.": "attention.output.dense.",
    "attention_norm.": "attention.output.LayerNorm.",
    **_FFN,
}
_PARTS = ("attention.self.query", "attention.self.key", "attention.self.value")
_LM_HEAD: Mapping[str, str] = {
    "head.dense.": "lm_head.dense.",
    "head.norm.": "lm_head.layer_norm.",
    "head.bias": "lm_head.bias",
}
_TWO_MAPS: Mapping[str, str] = {"encoder.pooler.": "classifier.dense.", "head.out.": "classifier.out_proj."}
_COMMON: Mapping[HeadName, Mapping[str, str]] = {
    "span": {"head.out.": "qa_outputs."},
    "tokens": {"head.out.": "classifier."},
}

_BERT = _Names(
    prefix="bert.",
    encoder=_ENCODER,
    layer=_LAYER,
    parts=_PARTS,
    heads={
        "mlm": {
            "head.dense.": "cls.predictions.transform.dense.",
            "head.norm.": "cls.predictions.transform.LayerNorm.",
            "head.bias": "cls.predictions.bias",
        },
        "classification": {"head.out.": "classifier."},
        **_COMMON,
    },
)
_ROBERTA = replace(_BERT, prefix="roberta.", heads={"mlm": _LM_HEAD, "classification": _TWO_MAPS, **_COMMON})
_NAMES: Mapping[FamilyName, _Names] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": _Names(
        prefix="distilbert.",
        encoder=_ENCODER,
        layers="transformer.layer.",
        layer={
            "attention_out.": "attention.out_lin.",
            "attention_norm.": "sa_layer_norm.",
            "ffn_in.": "ffn.lin1.",
            "ffn_out.": "ffn.lin2.",
            "ffn_norm.": "output_layer_norm.",
        },
        parts=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        heads={
            "mlm": {
                "head.dense.": "vocab_transform.",
                "head.norm.": "vocab_layer_norm.",
                "head.bias": "vocab_projector.bias",
            },
            "classification": {"encoder.pooler.": "pre_classifier.", "head.out.": "classifier."},
            **_COMMON,
        },
    ),
    "electra": replace(
        _BERT,
        prefix="electra.",
        heads={
            "mlm": {
                "head.dense.": "generator_predictions.dense.",
                "head.norm.": "generator_predictions.LayerNorm.",
                "head.bias": "generator_lm_head.bias",
            },
            "classification": _TWO_MAPS,
            **_COMMON,
        },
    ),
    "mpnet": replace(
        _ROBERTA,
        prefix="mpnet.",
        layer={"attention_out.": "attention.attn.o.", "attention_norm.": "attention.LayerNorm.", **_FFN},
        parts=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    ),
}
# Tied copies, buffers, pre-training heads and heads that were not requested.
_IGNORED = re.compile(
    r"(.*embeddings\.(position_ids|token_type_ids)|(cls|lm_head|pre_classifier|classifier|qa_outputs|"
    r"vocab_transform|vocab_layer_norm|vocab_projector|"
    r"discriminator_predictions|generator_predictions|generator_lm_head|crit_mask_lm_smoothed)\..*)"
)
# What wrappers add to the names: DistributedDataParallel, torch.compile, FSDP, activation checkpoints; a model that is
# an attribute of another module.
_WRAPPER = re.compile(r"\b(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PREFIX = re.compile(rf"^(model\.)?({'|'.join(sorted({re.escape(names.prefix) for names in _NAMES.values()}))})?")
_OLD_NORM = {"gamma": "weight", "beta": "bias"}


def hf_names(name: str, *, family: FamilyName, head: HeadName | None) -> tuple[str, ...]:
    """Hugging Face names of our weight `name`: one name, or three for a fused projection.

    Without a head, the names have no family prefix, as `AutoModel` writes them.
    """
    names = _NAMES[family]
    if head is not None and (found := _swap(name, names.heads[head])):
        return (found,)
    prefix = "" if head is None else names.prefix
    inner = name.removeprefix("encoder.")
    if match := re.fullmatch(r"layers\.(\d+)\.(.*)", inner):
        base = f"{prefix}{names.layers}{match[1]}."
        if match[2].startswith("qkv."):
            return tuple(f"{base}{part}.{match[2][4:]}" for part in names.parts)
        return (base + str(_swap(match[2], names.layer)),)
    found = _swap(inner, names.encoder)
    assert found, f"{name} belongs to a head; specify which"
    return (prefix + found,)


def to_hf(tensors: Mapping[str, Tensor], *, family: FamilyName, head: HeadName | None) -> dict[str, Tensor]:
    """Our tensors under Hugging Face names; fused projections are split."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        names = hf_names(name, family=family, head=head)
        renamed.update(zip(names, tensor.chunk(len(names)), strict=True))
    return renamed


def to_ours(
    tensors: Mapping[str, Tensor],
    expected: Iterable[str],
    *,
    family: FamilyName,
    head: HeadName | None,
    where: str,
) -> dict[str, Tensor]:
    """Find our `expected` weights in a published checkpoint, as `parts_of` does; fused projections are joined."""
    import torch

    parts = parts_of(tensors, expected, family=family, head=head, where=where)
    return {name: found[0] if len(found) == 1 else torch.cat(found) for name, found in parts.items()}


def parts_of(
    tensors: Mapping[str, A],
    expected: Iterable[str],
    *,
    family: FamilyName,
    head: HeadName | None,
    where: str,
) -> dict[str, tuple[A, ...]]:
    """Find our `expected` weights in a published checkpoint: one tensor each, or query, key and value of equal shapes.

    Absent weights are omitted from the result. Accepts names with or without the prefixes of the family and of training
    wrappers, TF-era `gamma`/`beta`, and Microsoft's fused query-key-value with separate biases.

    Raises:
        DataError: a tensor is unknown to this encoder (the message lists all), or a query-key-value is incomplete.
    """
    left = _normalized(tensors, where)
    found: dict[str, tuple[A, ...]] = {}
    for name in expected:
        names = [_PREFIX.sub("", theirs) for theirs in hf_names(name, family=family, head=head)]
        absent = [theirs for theirs in names if theirs not in left]
        if 0 < len(absent) < len(names):
            raise missing_tensors(absent, where)
        if not absent:
            found[name] = _of_one_shape(_floats({theirs: left.pop(theirs) for theirs in names}, where), where)
    unexpected = [
        name
        for name in left
        if not _IGNORED.fullmatch(name) and name not in ("pooler.dense.weight", "pooler.dense.bias")
    ]
    if unexpected:
        raise DataError(f"{where}: unexpected tensors {listed(unexpected)}; expected a {family} encoder")
    return found


def _floats(parts: Mapping[str, A], where: str) -> Mapping[str, A]:
    """The tensors; raises DataError for numbers that mean something else, such as quantized weights."""
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in parts.items()}
    other = [f"{name} ({kind})" for name, kind in types.items() if kind not in _FLOATS]
    if other:
        raise DataError(f"{where}: quantized tensors {listed(other)}; save the model as float32, float16 or bfloat16")
    return parts


def _of_one_shape(parts: Mapping[str, A], where: str) -> tuple[A, ...]:
    """The parts of a fused projection, which must have equal shapes."""
    if len({tuple(tensor.shape) for tensor in parts.values()}) != 1:
        shapes = listed(f"{name} {tuple(tensor.shape)}" for name, tensor in parts.items())
        raise DataError(f"{where}: tensors of one attention layer differ in shape: {shapes}")
    return tuple(parts.values())


def missing_tensors(names: Iterable[str], where: str) -> DataError:
    """The error for a file without these tensors."""
    return DataError(f"{where}: missing tensors {listed(names)}; the file does not match its config.json")


def listed(names: Iterable[str], most: int = 6) -> str:
    """Format `names` for a message: the first few and the number of others."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _swap(name: str, table: Mapping[str, str]) -> str | None:
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return None


def _normalized(tensors: Mapping[str, A], where: str) -> dict[str, A]:
    """Strip the family prefix, modernize LayerNorm names, split Microsoft's fused projections."""
    plain: dict[str, A] = {}
    for name, tensor in tensors.items():
        stem, _, last = _PREFIX.sub("", _WRAPPER.sub("", name)).rpartition(".")
        if "rel_pos_bias" in name:
            raise DataError(
                f"{where}: {name} is a relative position bias (UniLM 1.2 / 2); "
                f"this encoder supports absolute positions only, which all MiniLM models use"
            )
        if stem.endswith("LayerNorm"):
            last = _OLD_NORM.get(last, last)
        short = f"{stem}.{last}".removeprefix(".")
        if short in plain:
            raise DataError(
                f"{where}: two tensors are {short} (one is {name}); expected one model; save the one to use alone"
            )
        plain[short] = tensor
    for name in [name for name in plain if name.endswith("self.qkv_linear.weight")]:
        _split_fused(plain, name.removesuffix("qkv_linear.weight"), where)
    return plain


def _split_fused(plain: dict[str, A], base: str, where: str) -> None:
    """Split `qkv_linear` into query, key and value; biases are `q_bias` and `v_bias`, the key bias is zero."""
    weight = plain.pop(f"{base}qkv_linear.weight")
    missing = [part for part in ("q_bias", "v_bias") if base + part not in plain]
    if missing or weight.ndim != 2 or weight.shape[0] % 3:
        raise DataError(
            f"{where}: {base}qkv_linear.weight {tuple(weight.shape)} without {listed(missing) or '3 parts'}"
        )
    query_bias, value_bias = (plain.pop(base + part).flatten() for part in ("q_bias", "v_bias"))
    biases = (query_bias, query_bias * 0, value_bias)
    width = weight.shape[0] // 3
    for number, (part, bias) in enumerate(zip(("query", "key", "value"), biases, strict=True)):
        plain[f"{base}{part}.weight"] = weight[number * width : (number + 1) * width]
        plain[f"{base}{part}.bias"] = bias
