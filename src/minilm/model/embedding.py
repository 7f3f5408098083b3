"""Text embedding settings of a model folder, in sentence-transformers' file format.

In: a model folder, with or without `modules.json` and its companion files.
Out: `EmbeddingSettings`; the same files, written so that both libraries compute the same vectors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from minilm.errors import DataError
from minilm.files.atomic import atomic_write
from minilm.files.json import read_json, write_json
from minilm.files.regular import read_text

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSettings:
    """Pooling over tokens, whether vectors are normalized to unit length, and max tokens per text."""

    pooling: Pooling = "mean"
    normalize: bool = False
    max_tokens: int = 512


def read_embedding(folder: Path, *, model_max_tokens: int) -> EmbeddingSettings:
    """Read the settings; without them, defaults are those of sentence-transformers: mean pooling, no normalization.

    Raises:
        DataError: a module or pooling mode is not supported.
    """
    modules_file = folder / "modules.json"
    if not modules_file.is_file():
        return EmbeddingSettings(max_tokens=_max_tokens(folder, model_max_tokens))
    pooling: Pooling = "mean"
    normalize = False
    for module in _read_list(modules_file):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _read_pooling(folder / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise DataError(f"{modules_file}: module {kind!r}; expected Transformer, Pooling and Normalize only")
    return EmbeddingSettings(pooling=pooling, normalize=normalize, max_tokens=_max_tokens(folder, model_max_tokens))


def write_embedding(folder: Path, settings: EmbeddingSettings, *, hidden_size: int) -> None:
    """Write the settings next to a model in `folder`, in the format that every sentence-transformers release reads."""
    kinds: Sequence[tuple[str, str]] = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if settings.normalize:
        kinds = [*kinds, ("2_Normalize", "Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    atomic_write(folder / "modules.json", json.dumps(modules, indent=2) + "\n")
    for path, _ in kinds[1:]:
        (folder / path).mkdir(exist_ok=True)
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": hidden_size,
            "pooling_mode_cls_token": settings.pooling == "cls",
            "pooling_mode_mean_tokens": settings.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": settings.max_tokens, "do_lower_case": False})


def _read_list(file: Path) -> list[Mapping[str, object]]:
    try:
        values = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON ({error.msg}); expected a list of modules") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{file}: expected a list of modules")
    return cast("list[Mapping[str, object]]", values)


def _read_pooling(file: Path) -> Pooling:
    """Read either format: `pooling_mode: mean` (newer) or `pooling_mode_mean_tokens: true` (older)."""
    values = read_json(file)
    chosen = [str(values["pooling_mode"])] if "pooling_mode" in values else []
    prefix = "pooling_mode_"
    chosen += [
        key.removeprefix(prefix).removesuffix("_tokens").removesuffix("_token")
        for key, value in values.items()
        if key.startswith(prefix) and value is True
    ]
    if len(chosen) != 1 or chosen[0] not in ("mean", "cls"):
        raise DataError(f"{file}: pooling {' + '.join(chosen) or 'missing'}; expected mean or cls")
    return cast("Pooling", chosen[0])


def _max_tokens(folder: Path, model_max_tokens: int) -> int:
    """The smallest limit in any of the folder's files, at most the size of the position table."""
    limits: list[object] = [model_max_tokens]
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        if (folder / name).is_file():
            limits.append(read_json(folder / name).get(key))
    return int(min(limit for limit in limits if isinstance(limit, (int, float)) and limit > 0))
