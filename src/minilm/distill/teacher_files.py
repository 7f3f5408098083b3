"""The folder of a teacher, checked before and after transformers loads it; transformers itself is not imported here.

In: a model folder; what transformers says about the weights that it loaded. Out: one-line errors; only what matters of
its reports.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minilm.errors import DataError, SystemProblem, one_line
from minilm.files.json import read_json
from minilm.files.regular import reject_pointer
from minilm.files.sentence_modules import transformer_folder
from minilm.files.tensors import read_safetensors_header, write_safetensors
from minilm.model.checkpoint import read_tensors
from minilm.model.config import EncoderConfig, require_ranges
from minilm.model.metadata import config_file, weight_files

logger = logging.getLogger(__name__)


def require_files(folder: Path) -> Path:
    """The folder of the encoder itself, with a configuration and weights that are worth loading.

    Raises:
        SystemProblem: transformers is not installed.
        DataError: a file is missing or damaged, or a number of the configuration is out of range.
    """
    if find_spec("transformers") is None:
        raise SystemProblem("transformers is not installed; install it with: pip install 'minilm[hf]'")
    if not folder.is_dir():
        raise DataError(f"teacher {folder}: no such folder; expected a Hugging Face model folder")
    inner = transformer_folder(folder)
    _require_reasonable(config_file(folder))
    for file in inner.glob("*.safetensors"):
        read_safetensors_header(file)  # reports a damaged file more clearly than the library
    for file in weight_files(inner)[1]:
        reject_pointer(file)
    return inner


@contextlib.contextmanager
def with_safetensors(inner: Path) -> Iterator[Path]:
    """The folder; if its weights are in `.bin` files, a temporary one with safetensors: transformers would unpickle.

    Raises:
        DataError: a `.bin` file holds anything but tensors.
    """
    if any(inner.glob("*.safetensors")):
        yield inner
        return
    _, tensors = read_tensors(inner)
    with tempfile.TemporaryDirectory(prefix="minilm-teacher-") as folder:
        copied = Path(folder)
        shutil.copy(config_file(inner), copied / "config.json")
        write_safetensors(copied / "model.safetensors", tensors, metadata={"format": "pt"})
        del tensors
        yield copied


def _require_reasonable(config: Path) -> None:
    """Check the numbers of a configuration before transformers builds a model from them."""
    values = read_json(config)
    if not EncoderConfig.is_family(values):  # other keys and ranges; a huge number of layers would take hours
        values = {key: values[key] for key in ("num_hidden_layers",) if key in values}
    require_ranges(values, where=str(config))


@contextlib.contextmanager
def explaining(folder: Path) -> Iterator[None]:
    """One line for whatever transformers raises; a model's code meets the damaged values of a configuration first."""
    try:
        yield
    except Exception as error:
        raise DataError(f"teacher {folder}: transformers cannot load it: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The first line of a foreign error, else the name of its class."""
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])


@contextlib.contextmanager
def without_load_report() -> Iterator[None]:
    """Drop transformers' table of unused heads and missing poolers; `require_weights` reports what matters."""
    log = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    log.addFilter(keep)
    try:
        yield
    finally:
        log.removeFilter(keep)


def require_weights(model: Any, loading: Mapping[str, Any], folder: Path) -> None:  # noqa: ANN401
    """Check what transformers found in the weights; heads may be unused, and a pooler, which is never run, missing.

    Raises:
        DataError: a weight is missing or has another shape than the configuration says.
    """
    missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
    if missing:
        raise DataError(
            f"teacher {folder}: the weights lack {len(missing)} tensors of the model (first: {missing[0]}), which "
            "would be random; use the complete folder of the model"
        )
    unlike = sorted(loading["mismatched_keys"])
    if unlike:
        name, found, expected = unlike[0]
        raise DataError(
            f"teacher {folder}: {len(unlike)} weights have another shape than config.json says (first: {name} is "
            f"{list(found)}, expected {list(expected)}); use the configuration that belongs to the weights"
        )
    parts = {name for name, _ in model.named_children()} - {"pooler"}
    prefix = f"{model.base_model_prefix}."
    ignored = [name for name in sorted(loading["unexpected_keys"]) if not name.endswith("position_ids")]
    ignored = [name for name in ignored if name.removeprefix(prefix).partition(".")[0] in parts]
    if ignored:
        logger.warning(
            "teacher %s: %d tensors are not part of the model that config.json describes and are ignored (first: %s)",
            folder,
            len(ignored),
            ignored[0],
        )
