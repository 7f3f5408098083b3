"""Asymmetric models: an encoder for queries and another for documents, as sentence-transformers' `Router`.

In: a model folder whose `modules.json` begins with a Router. Out: `Routes`, an encoder and its settings for each role;
the same files, written as every release of sentence-transformers with a Router (5.0 and later) reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from minilm.errors import DataError
from minilm.files.atomic import make_folder
from minilm.files.json import read_json, write_json
from minilm.files.sentence_modules import (
    MODULES,
    ROUTER,
    ModuleEntry,
    module_entry,
    module_type,
    read_modules,
    write_modules,
)
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import chain_of, read_chain, write_chain, write_model_file
from minilm.model.metadata import read_config
from minilm.model.vector_modules import flag, require_keys

Role = Literal["query", "document"]
ROLES: tuple[Role, ...] = get_args(Role)
_DEFAULT: Role = "document"  # as `Router.for_query_document` has it
_FILE = "router_config.json"
_ELSEWHERE = "encode with sentence-transformers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """What encodes the texts of one role.

    Attributes:
        encoder: the folder of configuration, weights and tokenizer.
        config: of the encoder.
        embedding: how a text becomes a vector.
    """

    encoder: Path
    config: EncoderConfig
    embedding: EmbeddingSettings

    @property
    def width(self) -> int:
        """Of a vector; raises DataError if the modules do not fit each other."""
        return self.embedding.width(self.config.hidden_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Routes:
    """The two encoders of an asymmetric model, whose vectors are compared.

    Attributes:
        by_role: both.
        default: the role of texts without one; None if they have none.
    """

    by_role: Mapping[Role, Route]
    default: Role | None

    @property
    def width(self) -> int:
        """Of the vectors of both."""
        return self.by_role["query"].width


def read_routes(folder: Path) -> Routes | None:
    """The routes of an asymmetric model; None for any other model.

    Raises:
        DataError: the folder asks for something that would be computed differently here, or a file is damaged.
    """
    modules = read_modules(folder)
    if all(entry.kind != ROUTER for entry in modules):
        return None
    router, *after = modules
    if router.kind != ROUTER or any(entry.kind == ROUTER for entry in after):
        found = ", ".join(entry.kind for entry in modules)
        raise DataError(f"{folder / MODULES}: modules {found}; expected one Router, before all others; {_ELSEWHERE}")
    file = folder / router.path / _FILE
    values = read_json(file)
    chains = _chains(values, file, inside=router.path)
    by_role = {role: _read_route(folder, [*chains[role], *after]) for role in ROLES}
    widths = [route.width for route in by_role.values()]
    if widths[0] != widths[1]:
        raise DataError(
            f"{file}: vectors of queries have width {widths[0]}, those of documents {widths[1]}; expected the same, "
            "because they are compared"
        )
    return Routes(by_role=by_role, default=_default_role(values, file, first=next(iter(chains))))


def _read_route(folder: Path, chain: list[ModuleEntry]) -> Route:
    encoder = next((folder / entry.path for entry in chain if entry.kind == "Transformer"), folder)
    config = read_config(encoder) if encoder != folder else None  # `read_chain` says what is missing
    settings = read_chain(folder, chain, model_max_tokens=512 if config is None else config.max_tokens)
    assert config is not None
    return Route(encoder=encoder, config=config, embedding=settings)


def _chains(values: Mapping[str, object], file: Path, *, inside: str) -> dict[Role, list[ModuleEntry]]:
    """The modules of each role, with paths relative to the model; in the order of the file."""
    types, structure = values.get("types"), values.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict):
        raise DataError(f"{file}: expected an object for each of types and structure")
    if set(structure) != set(ROLES):
        found = ", ".join(map(repr, structure)) or "none"
        raise DataError(f"{file}: routes {found}; expected {' and '.join(map(repr, ROLES))}; {_ELSEWHERE}")
    chains: dict[Role, list[ModuleEntry]] = {}
    for role, names in structure.items():
        if not isinstance(names, list) or not names or not all(name in types for name in map(str, names)):
            raise DataError(f"{file}: route {role!r} is {names!r:.80}; expected a list of names from types")
        entries = [module_entry({"type": types[name], "path": name}, file) for name in names]
        chains[role] = [ModuleEntry(kind=one.kind, path=str(Path(inside, one.path))) for one in entries]
    return chains


def _default_role(values: Mapping[str, object], file: Path, *, first: Role) -> Role | None:
    """The role of texts without one: the one that is stated, else the first, unless the file forbids that."""
    found = values.get("parameters") or {}
    if not isinstance(found, dict):
        raise DataError(f"{file}: parameters is {found!r:.80}; expected an object")
    used = ("default_route", "allow_empty_key")
    require_keys(found, file, used=used, defaults={"route_mappings": {}})
    default = found.get("default_route")
    if default is None:
        return first if flag(found, "allow_empty_key", file, default=True) else None
    if default not in ROLES:
        raise DataError(f"{file}: default_route is {default!r:.80}; expected {' or '.join(map(repr, ROLES))}, or null")
    return cast("Role", default)


def write_routes(folder: Path, settings: Mapping[Role, EmbeddingSettings], *, hidden_sizes: Mapping[Role, int]) -> None:
    """Write the settings of both roles, which agree on what is of the whole model, and the folders of their modules.

    The files of the encoders belong into `encoder_folder` of each role.

    Raises:
        DataError: a module does not fit the width before it.
        SystemProblem: a file cannot be written.
    """
    chains = {role: chain_of(settings[role], prefix=f"{role}_") for role in ROLES}
    for role, chain in chains.items():
        settings[role].width(hidden_sizes[role])
        for entry in chain:
            make_folder(folder / entry.path)
        write_chain(folder, chain, settings[role], hidden_size=hidden_sizes[role])
    router: dict[str, object] = {
        "types": {entry.path: module_type(entry.kind) for chain in chains.values() for entry in chain},
        "structure": {role: [entry.path for entry in chain] for role, chain in chains.items()},
        "parameters": {"default_route": _DEFAULT, "allow_empty_key": True},
    }
    write_json(folder / _FILE, router)
    write_modules(folder, [ModuleEntry(kind=ROUTER, path="")])
    write_model_file(folder, settings[_DEFAULT])


def encoder_folder(folder: Path, role: Role) -> Path:
    """Where the encoder of a role is written."""
    return folder / f"{role}_0_Transformer"
