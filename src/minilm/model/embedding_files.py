"""Embedding settings of a model folder, in sentence-transformers' file format.

In: a model folder, with or without `modules.json` and its companion files.
Out: `EmbeddingSettings`; the same files, written so that both libraries compute the same vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from minilm.errors import DataError
from minilm.files.json import read_json, write_json
from minilm.files.sentence_modules import (
    CROSS_ENCODER,
    MODEL_FILE,
    MODULES,
    ModuleEntry,
    encoder_among,
    read_modules,
    write_modules,
)
from minilm.model.activations import Activation, activation_path
from minilm.model.embedding import EmbeddingSettings, PoolingMode
from minilm.model.vector_modules import (
    SCORES,
    VectorModule,
    flag,
    read_dense,
    read_layer_norm,
    read_normalize,
    require_keys,
    write_module,
)

logger = logging.getLogger(__name__)

_ENCODER_FILE = "sentence_bert_config.json"
_ENCODER_FILES = (
    _ENCODER_FILE,
    *(f"sentence_{name}_config.json" for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta")),
    "sentence_xlnet_config.json",
)
_ENCODER_DEFAULTS: Mapping[str, object] = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
    "processing_kwargs": {},
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
    "tokenizer_name_or_path": None,
    **{f"{part}_{kind}": {} for part in ("model", "tokenizer", "config") for kind in ("args", "kwargs")},
    "processor_kwargs": {},
}
_SCORER_DEFAULTS: Mapping[str, object] = {
    **_ENCODER_DEFAULTS,
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
    "do_lower_case": False,
}
"""Of the encoder of a cross-encoder; it is not lowercased by itself."""
# Older key of each mode, in the order in which sentence-transformers concatenates their vectors.
_OLD_KEYS: Mapping[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_IN_EVERY_RELEASE = tuple(_OLD_KEYS)[:4]
_READERS: Mapping[str, Callable[[Path], VectorModule]] = {
    "Dense": read_dense,
    "LayerNorm": read_layer_norm,
    "Normalize": read_normalize,
}


def read_embedding(folder: Path, *, model_max_tokens: int) -> EmbeddingSettings:
    """Read the settings; without them, defaults are those of sentence-transformers: mean pooling of all tokens.

    Raises:
        DataError: the folder asks for something that would be computed differently here; names file and key.
    """
    modules = read_modules(folder)
    encoder = encoder_among(modules, folder)
    values = _read_model_file(folder)
    if modules and values.get("model_type") != CROSS_ENCODER:
        return _chain(folder, modules, values, model_max_tokens)
    _reject_adapter(encoder)
    _report_ignored(folder, modules)
    return EmbeddingSettings(max_tokens=read_scorer_limit(folder, model_max_tokens=model_max_tokens))


def read_scorer_limit(folder: Path, *, model_max_tokens: int) -> int:
    """Max tokens of a pair, of a cross-encoder or a folder without `modules.json`.

    Raises:
        DataError: as for `read_embedding`.
    """
    modules = read_modules(folder)
    encoder = encoder_among(modules, folder)
    limits = _read_scorer(folder, modules, encoder) if modules else {}
    return _max_tokens(limits, encoder / _ENCODER_FILE, model_max_tokens)


def read_chain(folder: Path, modules: Sequence[ModuleEntry], *, model_max_tokens: int) -> EmbeddingSettings:
    """The settings of an encoder and the modules after it, with those of the whole model at `folder`.

    Raises:
        DataError: as for `read_embedding`.
    """
    return _chain(folder, modules, _read_model_file(folder), model_max_tokens)


def _chain(
    folder: Path, modules: Sequence[ModuleEntry], values: Mapping[str, object], model_max_tokens: int
) -> EmbeddingSettings:
    """The same, with what the file of the whole model says."""
    _require_order(modules, folder / MODULES)
    encoder, file = folder / modules[0].path, folder / MODEL_FILE
    _reject_adapter(encoder)
    pooling, include_prompt = _read_pooling(folder / modules[1].path / "config.json")
    encoder_values, encoder_file = _read_encoder_file(encoder)
    prompts = _prompts(values, file)
    default = values.get("default_prompt_name")
    if default is not None and default not in {"query", "document", *prompts}:
        found = ", ".join(map(repr, prompts)) or "none"
        raise DataError(f"{file}: default_prompt_name is {default!r:.80}; expected a key of prompts, which has {found}")
    similarity = values.get("similarity_fn_name")
    return EmbeddingSettings(
        pooling=pooling,
        modules=tuple(_READERS[entry.kind](folder / entry.path) for entry in modules[2:] if entry.kind in _READERS),
        max_tokens=_max_tokens(encoder_values, encoder_file, model_max_tokens),
        lowercase=flag(encoder_values, "do_lower_case", encoder_file, default=False),
        include_prompt=include_prompt,
        prompts=prompts,
        default_prompt_name=None if default is None else str(default),
        truncate_dim=_positive(values, "truncate_dim", file),
        similarity=None if similarity is None else str(similarity),
    )


def write_embedding(folder: Path, settings: EmbeddingSettings, *, hidden_size: int) -> None:
    """Write the settings next to a model in `folder`, in the format that every sentence-transformers release reads.

    Raises:
        DataError: a module does not fit the width before it.
    """
    settings.width(hidden_size)
    encoder, *after = chain_of(settings)
    entries = [replace(encoder, path=""), *after]
    write_modules(folder, entries)
    write_chain(folder, entries, settings, hidden_size=hidden_size)
    write_model_file(folder, settings)


def chain_of(settings: EmbeddingSettings, *, prefix: str = "") -> list[ModuleEntry]:
    """The encoder and the modules after it, each in a folder whose name starts with `prefix`."""
    kinds = ["Transformer", "Pooling", *(type(module).__name__ for module in settings.modules)]
    return [ModuleEntry(kind=kind, path=f"{prefix}{number}_{kind}") for number, kind in enumerate(kinds)]


def write_chain(folder: Path, entries: Sequence[ModuleEntry], settings: EmbeddingSettings, *, hidden_size: int) -> None:
    """Write the files of an encoder's settings and of the modules after it, whose folders must exist."""
    encoder, pooling, *after = (folder / entry.path for entry in entries)
    write_json(encoder / _ENCODER_FILE, {"max_seq_length": settings.max_tokens, "do_lower_case": settings.lowercase})
    write_json(pooling / "config.json", _pooling_values(settings, hidden_size))
    for inner, module in zip(after, settings.modules, strict=True):
        write_module(inner, module)


def write_model_file(folder: Path, settings: EmbeddingSettings) -> None:
    """Write what is of the whole model: prompts, similarity, truncation; no file where all are the defaults."""
    values: dict[str, object] = {
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "similarity_fn_name": settings.similarity,
        "truncate_dim": settings.truncate_dim,
    }
    if any(values.values()):
        write_json(folder / MODEL_FILE, values)


def read_scorer(folder: Path, *, model_max_tokens: int) -> EmbeddingSettings | None:
    """How a reranker makes its score from pooled rows: modules for vectors, the last of which has width 1.

    None if its score is that of a head, or the folder is not a reranker.

    Raises:
        DataError: as for `read_embedding`, or the last module does not give one score.
    """
    values = _read_model_file(folder)
    modules = read_modules(folder)
    if values.get("model_type") != CROSS_ENCODER or not _is_pooled_scorer(modules):
        return None
    chain = _chain(folder, modules[:-1], values, model_max_tokens)
    last = read_dense(folder / modules[-1].path, output=SCORES)
    if len(last.weight) != 1:
        raise DataError(f"{last.where}: Dense gives {len(last.weight)} scores; expected one; use sentence-transformers")
    return replace(chain, modules=(*chain.modules, last))


def write_scorer(folder: Path, settings: EmbeddingSettings, *, activation: Activation, hidden_size: int) -> None:
    """Write how a reranker makes its score from pooled rows; sentence-transformers reads it from version 5.4 on.

    Raises:
        DataError: a module does not fit the width before it.
    """
    write_embedding(folder, settings, hidden_size=hidden_size)
    last = settings.modules[-1]
    write_module(folder / f"{len(settings.modules) + 1}_{type(last).__name__}", last, output=SCORES)
    write_json(folder / MODEL_FILE, {"model_type": CROSS_ENCODER, "activation_fn": activation_path(activation)})


def _is_pooled_scorer(modules: Sequence[ModuleEntry]) -> bool:
    kinds = [entry.kind for entry in modules]
    return kinds[:2] == ["Transformer", "Pooling"] and len(kinds) > 2 and kinds[-1] == "Dense"


def _pooling_values(settings: EmbeddingSettings, hidden_size: int) -> dict[str, object]:
    """The older format, unless its order differs from that of the modes."""
    values: dict[str, object] = {"word_embedding_dimension": hidden_size}
    if settings.pooling == tuple(mode for mode in _OLD_KEYS.values() if mode in settings.pooling):
        values |= {
            key: mode in settings.pooling
            for key, mode in _OLD_KEYS.items()
            if key in _IN_EVERY_RELEASE or mode in settings.pooling
        }
    else:
        values = {"embedding_dimension": hidden_size, "pooling_mode": list(settings.pooling)}
    if not settings.include_prompt:
        values["include_prompt"] = False
    return values


# --- reading -------------------------------------------------------------------------------------


def _read_model_file(folder: Path) -> Mapping[str, object]:
    """The values of the file of the whole model; of a cross-encoder its type alone."""
    file = folder / MODEL_FILE
    if not file.is_file():
        return {}
    values = read_json(file)
    kind = values.get("model_type") or "SentenceTransformer"
    if kind not in ("SentenceTransformer", CROSS_ENCODER):
        raise DataError(f"{file}: model_type is {kind!r:.80}; expected SentenceTransformer; use sentence-transformers")
    if kind == CROSS_ENCODER:
        return {"model_type": kind}  # the rest is read where its scores are
    used = ("__version__", "model_type", "requirements", "similarity_fn_name")
    vector = ("prompts", "default_prompt_name", "truncate_dim")
    require_keys(values, file, used=(*used, *vector), defaults={})
    return values


def _report_ignored(folder: Path, modules: list[ModuleEntry]) -> None:
    """Report what sentence-transformers would not read either."""
    names = (MODEL_FILE, *_ENCODER_FILES)
    ignored = [name for name in names if (folder / name).is_file()]
    if modules:
        logger.warning("%s is a CrossEncoder; its text vectors are means over tokens", folder)
    elif ignored:
        logger.warning("%s has no %s: text vectors ignore %s", folder, MODULES, " and ".join(ignored))


def _read_scorer(folder: Path, modules: list[ModuleEntry], encoder: Path) -> Mapping[str, object]:
    """Encoder settings of a cross-encoder with `modules.json`; raises DataError if its head is not the whole score."""
    found = [entry.kind for entry in modules]
    if found != ["Transformer"] and not _is_pooled_scorer(modules):
        raise DataError(
            f"{folder / MODULES}: modules {', '.join(found)} of a CrossEncoder; expected one Transformer, whose head "
            "gives the scores; use sentence-transformers"
        )
    file = folder / MODEL_FILE
    default = read_json(file).get("default_prompt_name")
    if default is not None:
        raise DataError(
            f"{file}: default_prompt_name is {default!r:.80} for a CrossEncoder; expected null, because pairs have no "
            "prompts here; use sentence-transformers"
        )
    defaults = _SCORER_DEFAULTS if len(modules) == 1 else _ENCODER_DEFAULTS
    values, _ = _read_encoder_file(encoder, defaults=defaults)
    return values


def _reject_adapter(encoder: Path) -> None:
    file = encoder / "adapter_config.json"
    if file.is_file():
        raise DataError(f"{file}: adapters are not supported; merge it into the model with peft's merge_and_unload")


def _require_order(modules: Sequence[ModuleEntry], file: Path) -> None:
    """Require an encoder, one pooling, then modules for vectors."""
    expected = ["Transformer", "Pooling"]
    found = [entry.kind for entry in modules]
    supported = (*_READERS, "Dropout")  # which does nothing outside training
    unknown = [kind for kind in found if kind not in (*expected, *supported)]
    if unknown:
        raise DataError(
            f"{file}: module {unknown[0]!r:.80}; expected Transformer, Pooling, then any of {', '.join(supported)}; "
            "encode with sentence-transformers"
        )
    if found[:2] != expected or set(found[2:]) & set(expected):
        raise DataError(
            f"{file}: modules {', '.join(found)}; expected one Transformer, one Pooling, then any of "
            f"{', '.join(supported)}; encode with sentence-transformers"
        )


def _read_pooling(file: Path) -> tuple[tuple[PoolingMode, ...], bool]:
    """The modes, and whether the prompt is pooled; `pooling_mode: mean` (newer) or `pooling_mode_…: true` (older)."""
    values = read_json(file)
    used = ("word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *_OLD_KEYS)
    require_keys(values, file, used=used, defaults={})
    chosen = values.get("pooling_mode")
    if chosen is None:
        chosen = [mode for key, mode in _OLD_KEYS.items() if flag(values, key, file, default=False)] or ["mean"]
    modes = [chosen] if isinstance(chosen, str) else chosen
    known = get_args(PoolingMode)
    if not isinstance(modes, list) or not modes or not all(mode in known for mode in modes):
        raise DataError(f"{file}: pooling_mode is {chosen!r:.80}; expected one or several of {', '.join(known)}")
    return tuple(cast("list[PoolingMode]", modes)), flag(values, "include_prompt", file, default=True)


def _read_encoder_file(
    encoder: Path, *, defaults: Mapping[str, object] = _ENCODER_DEFAULTS
) -> tuple[Mapping[str, object], Path]:
    """The settings of the Transformer module: those of the first of its possible files that has any."""
    for name in _ENCODER_FILES:
        file = encoder / name
        if file.is_file() and (values := read_json(file)):
            used = {"max_seq_length", "do_lower_case", "unpad_inputs"} - set(defaults)
            require_keys(values, file, used=used, defaults=defaults)
            return values, file
    return {}, encoder / _ENCODER_FILE


def _prompts(values: Mapping[str, object], file: Path) -> dict[str, str]:
    found = values.get("prompts") or {}
    if not isinstance(found, dict) or not all(isinstance(text, str | None) for text in found.values()):
        raise DataError(f"{file}: prompts is {found!r:.80}; expected a text for each role")
    return {role: text or "" for role, text in found.items()}


def _positive(values: Mapping[str, object], key: str, file: Path) -> int | None:
    value = values.get(key)
    if value is not None and (type(value) is not int or value < 1):
        raise DataError(f"{file}: {key} is {value!r:.80}; expected a positive whole number or null")
    return value


def _max_tokens(values: Mapping[str, object], file: Path, model_max_tokens: int) -> int:
    """`max_seq_length`, else the tokenizer's limit; at most the size of the position table."""
    limit: object = _positive(values, "max_seq_length", file)
    tokenizer_file = file.parent / "tokenizer_config.json"
    if limit is None and tokenizer_file.is_file():
        config = read_json(tokenizer_file)
        limit = config.get("model_max_length", config.get("max_len"))  # the older name
    is_limit = isinstance(limit, int | float) and limit > 0
    return int(min(cast("float", limit), model_max_tokens)) if is_limit else model_max_tokens
