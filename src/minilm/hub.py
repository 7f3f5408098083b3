"""Models by their name on the Hugging Face hub, such as `sentence-transformers/all-MiniLM-L6-v2`.

In: a name. Out: the folder of that model in the local cache of Hugging Face's libraries. Nothing is downloaded unless
downloads are allowed; no other part of minilm fetches a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from minilm.errors import DataError, SystemProblem, one_line

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE = re.compile(r".*\.(bin|json|safetensors|txt|ya?ml)", re.IGNORECASE)
_NEEDED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_allowed: ContextVar[bool] = ContextVar("minilm_downloads_allowed", default=False)


def is_hub_name(name: str) -> bool:
    """Whether `name` may be that of a model on the hub, `owner/model` or `model`, and is not an existing path."""
    return bool(_NAME.fullmatch(name)) and not _FILE.fullmatch(name) and not Path(name).exists()


def base_name(model: str) -> str:
    """How a model card names the model that another one comes from: its name on the hub, or that of its folder."""
    return model if is_hub_name(model) else Path(model).name


@contextmanager
def downloads(*, allowed: bool) -> Iterator[None]:
    """Allow downloads in the block; otherwise they stay as they are: forbidden, unless an outer block allows them."""
    token = _allowed.set(allowed or _allowed.get())
    try:
        yield
    finally:
        _allowed.reset(token)


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot has a configuration and weights; other libraries may have fetched single files of it."""
    names = {path.name for path in folder.rglob("*")}
    return "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names)


def hub_model(name: str) -> Path:
    """Folder of a model in the local cache, downloaded before if it is not there and downloads are allowed.

    Raises:
        DataError: the model is not in the cache, or there is none of that name.
        SystemProblem: `huggingface_hub` is not installed, or the download failed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        raise SystemProblem(
            f"{name}: no such model folder; to look for a model of that name, install: pip install 'minilm[hub]'"
        ) from None
    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        cached = None
    if cached is not None and (not _allowed.get() or _is_complete(cached)):
        return cached
    if not _allowed.get():
        raise DataError(
            f"{name}: no such model folder, and the Hugging Face cache has no model of that name; download it with "
            f"--allow-download (in Python allow_download=True), or with 'hf download {name} --local-dir DIR' and give "
            "DIR"
        )
    try:
        folder = Path(snapshot_download(name, allow_patterns=_NEEDED))
        if not any(folder.rglob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*_NEEDED, "*.bin"]))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DataError(f"{name}: no such model folder, and no such model on the hub ({one_line(error)})") from None
    except Exception as error:  # each version raises different errors if the hub is unreachable
        raise SystemProblem(
            f"{name}: cannot be downloaded ({one_line(error)}); check the connection, or give a local folder"
        ) from error
    return folder
