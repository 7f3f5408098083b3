"""An asymmetric model: a small encoder for queries, a large one for documents, in one folder.

In: two model folders whose vectors are compared, such as a student of the other's vectors and its teacher. Out: one
folder for `minilm.load` and for the `Router` of sentence-transformers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from minilm.embedded import model_path
from minilm.errors import DataError
from minilm.export.folder import copy_encoder
from minilm.files.atomic import atomic_folder, reject_existing
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import read_embedding
from minilm.model.metadata import read_config
from minilm.model.routes import ROLES, Role, encoder_folder, write_routes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    folder: Path
    hidden_size: int
    settings: EmbeddingSettings


def write_asymmetric(*, query: Path | str, document: Path | str, out: Path | str) -> None:
    """Write a folder that encodes queries with one model and documents with another.

    The models may differ in everything but the width of their vectors: tokenizer, layers, length, pooling, modules.
    The prompt of queries is the first model's for the role `query`, that of documents the second's for `document`.
    Texts without a role have the latter if it is the second model's default.

    Args:
        query: a model folder, `embedded`, or a name in Hugging Face's cache.
        document: the same, for documents; its vectors are also those of texts without a role.
        out: the new folder.

    Raises:
        UsageError: `out` exists.
        DataError: the vectors have different widths, truncations or similarities, or a file is damaged.
        SystemProblem: `out` cannot be written.
    """
    folder = Path(out)
    reject_existing(folder)
    parts: dict[Role, _Part] = {"query": _read(query), "document": _read(document)}
    settings = _agreed(parts)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as aside:
        write_routes(aside, settings, hidden_sizes={role: part.hidden_size for role, part in parts.items()})
        for role, part in parts.items():
            copy_encoder(part.folder, encoder_folder(aside, role))


def _read(model: Path | str) -> _Part:
    folder = model_path(model)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such model folder")
    config = read_config(folder)
    settings = read_embedding(folder, model_max_tokens=config.max_tokens)
    return _Part(folder=folder, hidden_size=config.hidden_size, settings=settings)


def _agreed(parts: Mapping[Role, _Part]) -> dict[Role, EmbeddingSettings]:
    """The settings of both, with the same prompts and similarity; raises DataError if their vectors do not compare."""
    first, second = (parts[role] for role in ROLES)
    for what, one, other in (
        ("width", first.settings.width(first.hidden_size), second.settings.width(second.hidden_size)),
        ("truncate_dim", first.settings.truncate_dim, second.settings.truncate_dim),
        ("similarity_fn_name", *_similarities(first.settings, second.settings)),
    ):
        if one != other:
            raise DataError(
                f"{what} of the vectors: found {one} in {first.folder} and {other} in {second.folder}; expected the "
                "same, because vectors of queries are compared with those of documents"
            )
    prompts: dict[str, str] = {role: parts[role].settings.prompt_of(prompt=None, role=role) for role in ROLES}
    for role, part in parts.items():
        dropped = [name for name, text in part.settings.prompts.items() if text and name != role]
        if dropped:
            names = ", ".join(dropped)
            logger.warning(
                "%s: left out %d prompts, which are not of the role %r: %s", part.folder, len(dropped), role, names
            )
    similarity, _ = _similarities(first.settings, second.settings)
    default = "document" if second.settings.default_prompt_name == "document" else None
    return {
        role: replace(part.settings, prompts=prompts, default_prompt_name=default, similarity=similarity)
        for role, part in parts.items()
    }


def _similarities(first: EmbeddingSettings, second: EmbeddingSettings) -> tuple[str | None, str | None]:
    """Those of both; of a model that states none, the other's."""
    return first.similarity or second.similarity, second.similarity or first.similarity
