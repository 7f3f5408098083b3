"""`modules.json` of a sentence-transformers folder: the modules that turn a text into a vector, in order.

In: a model folder, with or without that file. Out: the modules with their folders; the folder of the encoder itself,
which is not always the root (`0_Transformer/`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from minilm.errors import DataError
from minilm.files.atomic import atomic_write
from minilm.files.regular import read_text

MODULES = "modules.json"
MODEL_FILE = "config_sentence_transformers.json"
"""What is of the whole model: its type, prompts, similarity."""
CROSS_ENCODER = "CrossEncoder"
"""Its type if it scores pairs."""
ROUTER = "Router"
"""The module of an asymmetric model, which has an encoder for each role."""

_LIBRARY = "sentence_transformers."
_KEYS = {"idx", "name", "path", "type"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleEntry:
    """One module.

    Attributes:
        kind: the class name of a module of sentence-transformers, such as `Pooling`; of others the whole type.
        path: its folder, relative to the model; empty for the root.
    """

    kind: str
    path: str


def read_modules(folder: Path) -> list[ModuleEntry]:
    """The modules of a folder in their order; none if it has no `modules.json`.

    Raises:
        DataError: the file is not a list of modules, a path leads out of the folder, or two modules share a name.
    """
    file = folder / MODULES
    if not file.is_file():
        return []
    try:
        values = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON ({error.msg}); expected a list of modules") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise DataError(f"{file}: not JSON ({error}); expected a list of modules") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{file}: expected a list of modules")
    names = [str(value["name"]) for value in values if "name" in value]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file}: two modules have the name {twice!r}; give each module its own name")
    return [module_entry(value, file) for value in values]


def module_entry(value: Mapping[str, object], file: Path) -> ModuleEntry:
    """A module from its `type` and `path`; raises DataError if they are none, or the path leads out of the folder."""
    kind, path = value.get("type"), value.get("path", "")
    if not isinstance(kind, str) or not isinstance(path, str):
        raise DataError(f"{file}: module {value!r:.80}; expected a text for each of type and path")
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise DataError(f"{file}: path {path!r} leads out of the model folder; expected the name of a folder in it")
    unknown = [key for key in value if key not in _KEYS and value[key]]
    if unknown:
        raise DataError(f"{file}: module {kind} has {unknown[0]} {value[unknown[0]]!r:.60}, which is not supported")
    return ModuleEntry(kind=kind.rpartition(".")[2] if kind.startswith(_LIBRARY) else kind, path=path)


def write_modules(folder: Path, modules: Sequence[ModuleEntry]) -> None:
    """Write `modules.json` in the format that every sentence-transformers release reads, and the modules' folders."""
    values = [
        {"idx": index, "name": str(index), "path": entry.path, "type": module_type(entry.kind)}
        for index, entry in enumerate(modules)
    ]
    atomic_write(folder / MODULES, json.dumps(values, indent=2) + "\n")
    for entry in modules:
        (folder / entry.path).mkdir(exist_ok=True)


def module_type(kind: str) -> str:
    """The path of a module's class that every sentence-transformers release knows."""
    return f"{_LIBRARY}models.{kind}"


def transformer_folder(path: Path) -> Path:
    """The folder of the encoder's configuration, weights and tokenizer: `path` unless `modules.json` names another.

    Raises:
        DataError: as for `read_modules`, or the model has an encoder for each role.
    """
    return encoder_among(read_modules(path), path)


def encoder_among(modules: Sequence[ModuleEntry], path: Path) -> Path:
    """The same, for the modules of the folder `path`, which have been read."""
    if any(entry.kind == ROUTER for entry in modules):
        raise DataError(
            f"{path / MODULES}: an asymmetric model (Router), which has several encoders; expected a model with one; "
            "from Python, minilm.load(DIR).encode(texts, role='query' or 'document') runs it"
        )
    return next((path / entry.path for entry in modules if entry.kind == "Transformer"), path)
