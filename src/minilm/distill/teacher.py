"""The teacher: any Hugging Face encoder, run on packed batches and stopped at the distilled layer.

In: a model folder and a `Packed` batch. Out: `Relations` of one layer, without gradient; later layers never run.

The model's own code runs unchanged: its attention goes through transformers' attention interface, where ours
is registered. The model sees one row of T tokens with explicit positions; our attention separates the sequences.

T packed tokens, H heads, D head width.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilm.distill.shapes import TeacherSizes
from minilm.distill.teacher_files import (
    explaining,
    first_line,
    require_files,
    require_weights,
    with_safetensors,
    without_load_report,
)
from minilm.errors import DataError, SystemProblem, UsageError, one_line
from minilm.files.sentence_modules import transformer_folder
from minilm.model.attention import attend
from minilm.model.encoder import Relations
from minilm.model.packing import Packed, pack
from minilm.model.prepacked import prepack
from minilm.model.without_weights import without_weights
from minilm.text.sentencepiece_layout import has_known_layout

logger = logging.getLogger(__name__)

TEACHERS_ONLY = (
    *("albert", "data2vec-text", "ernie", "eurobert", "gte", "jina_embeddings_v3", "modernbert", "nomic_bert"),
    *("roberta-prelayernorm", "xlm-roberta-xl"),
)
"""Values of `model_type` that are known to run packed, besides the families that are also loaded and fine-tuned."""
_INTERFACE = "minilm_packed"
_CHECKED_TOKENS = 150  # longer than the windows of local attention
_UNLIMITED = 2**31  # positions of a model that states no limit


class _Stop(Exception):  # not an error: the requested layer has been reached
    """Ends the model's forward pass once the requested layer is recorded."""


@dataclass
class _Recording:
    """A forward pass in progress: its batch, the requested layer, and what was recorded."""

    packed: Packed
    wanted: int
    calls: int = 0
    found: Relations | None = field(default=None)


_current: ContextVar[_Recording] = ContextVar("minilm_teacher_recording")


class Teacher:
    """A frozen encoder that computes `Relations` of the layer `sizes.layer`."""

    def __init__(self, model: nn.Module, *, sizes: TeacherSizes, first_position: int) -> None:
        """Wrap a transformers model that uses our attention implementation; see `load_teacher`."""
        self.sizes = sizes
        self._model = model
        self._first_position = first_position
        self._has_segments = "token_type_ids" in inspect.signature(model.forward).parameters

    @property
    def layer(self) -> int:
        """The distilled layer, 1-based."""
        return self.sizes.layer

    @torch.inference_mode()
    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the layer, after any rotary embedding, each `[T, H, D]` in the model's precision."""
        recording = _Recording(packed=packed, wanted=self.layer)
        token = _current.set(recording)
        try:
            self._model(
                input_ids=packed.token_ids[None],
                position_ids=packed.position_ids[None] + self._first_position,
                attention_mask=None,
                **({"token_type_ids": packed.segment_ids[None]} if self._has_segments else {}),
            )
        except _Stop:
            pass
        finally:
            _current.reset(token)
        if recording.calls == 0:
            raise _no_interface(self._model)
        if recording.found is None:
            raise UsageError(
                f"teacher.layer is {self.layer}, but the model has {recording.calls} attention layers; "
                f"change teacher.layer"
            )
        return recording.found


def load_teacher(
    folder: Path | str,
    *,
    layer: int | None = None,
    precision: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Teacher:
    """Load a Hugging Face encoder from a local folder, frozen and ready for packed batches.

    Three short texts are run packed, and one by one through the model's own attention. A model whose packed
    results differ (for example, with relative positions outside the attention interface) is rejected.

    Args:
        folder: a model folder; nothing is downloaded and no code in it is executed.
        layer: 1-based layer to distill; None for the last.
        precision: of the weights during distillation.
        device: where to run.

    Raises:
        SystemProblem: transformers is not installed.
        DataError: the model cannot be loaded or cannot run packed.
        UsageError: the layer does not exist.
    """
    model = _load_model(Path(folder))
    sizes = _sizes_of(model, layer, str(folder))
    teacher = Teacher(model, sizes=sizes, first_position=_first_position(model))
    found = _check_packed(teacher, model, str(folder))
    teacher.sizes = replace(
        sizes, num_heads=found.query.shape[1], query_width=_width(found.query), key_width=_width(found.key)
    )
    model.to(device=device, dtype=precision)
    prepack(model)
    return teacher


def read_sizes(folder: Path, *, layer: int | None = None) -> TeacherSizes:
    """The sizes of a teacher from its `config.json`; of the weights only the names and shapes are read.

    Raises:
        SystemProblem, DataError, UsageError: as for `load_teacher`, except for what only its numbers show.
    """
    inner = require_files(folder)
    from transformers import AutoConfig, AutoModel

    with explaining(folder), without_weights():
        model = AutoModel.from_config(
            AutoConfig.from_pretrained(inner, local_files_only=True, trust_remote_code=False), trust_remote_code=False
        )
    _require_packable(model, folder)
    return _sizes_of(model, layer, str(folder))


def _sizes_of(model: Any, layer: int | None, where: str) -> TeacherSizes:  # noqa: ANN401
    """Sizes by the configuration; keys and values have fewer heads in some models."""
    config = model.config
    num_layers = int(getattr(config, "num_hidden_layers", 0))
    wanted = num_layers if layer is None else layer
    if not 1 <= wanted <= num_layers:
        raise UsageError(f"teacher.layer is {wanted}; {where} has layers 1 to {num_layers}")
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    head_width = int(getattr(config, "head_dim", None) or width // heads)
    positions = int(getattr(config, "max_position_embeddings", None) or _UNLIMITED)
    return TeacherSizes(
        num_layers=num_layers,
        layer=wanted,
        hidden_size=width,
        intermediate_size=int(_first_of(config, "intermediate_size", "hidden_dim") or 4 * width),
        num_heads=heads,
        query_width=heads * head_width,
        key_width=int(getattr(config, "num_key_value_heads", None) or heads) * head_width,
        max_tokens=positions - _first_position(model),
        num_parameters=sum(weight.numel() for weight in model.parameters()),
    )


def _first_of(config: Any, *names: str) -> int | None:  # noqa: ANN401
    """The first of several keys of a configuration that exists: families name a size differently."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def _width(rows: Tensor) -> int:
    """Width of rows `[T, H, D]`."""
    return rows.shape[1] * rows.shape[2]


def _load_model(folder: Path) -> Any:  # noqa: ANN401 (a transformers model has no public static type)
    inner = require_files(folder)
    from transformers import AttentionInterface, AutoModel
    from transformers.utils import logging as transformers_logging

    AttentionInterface.register(_INTERFACE, _packed_attention)
    transformers_logging.disable_progress_bar()
    with with_safetensors(inner) as safe, explaining(folder), without_load_report():
        model, loading = AutoModel.from_pretrained(
            safe,
            attn_implementation=_INTERFACE,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, with their names
            output_loading_info=True,
        )
    _require_packable(model, folder)
    require_weights(model, loading, folder)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def tokenizer_folder(teacher: Path) -> Iterator[Path]:
    """The folder of the teacher's tokenizer: its own, or a temporary one with a tokenizer.json.

    Transformers converts formats that are not read here, such as the `spiece.model` of ALBERT.

    Raises:
        SystemProblem: a package that the conversion needs is not installed.
        DataError: transformers cannot convert it.
    """
    inner = transformer_folder(teacher)
    convertible = (inner / "config.json").is_file() and find_spec("transformers") is not None
    is_read = has_known_layout(inner) or any((inner / name).exists() for name in ("tokenizer.json", "vocab.txt"))
    if is_read or not convertible:
        yield teacher
        return
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="minilm-tokenizer-") as folder:
        try:
            tokenizer = AutoTokenizer.from_pretrained(inner, local_files_only=True, trust_remote_code=False)
            tokenizer.save_pretrained(folder)
        except ImportError as error:
            absent = [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]
            packages = " and ".join(name.replace("google.", "") for name in absent)
            way_out = f"install {packages} with: pip install 'minilm[hf]'" if absent else one_line(error)
            raise SystemProblem(
                f"teacher {teacher}: its tokenizer must be converted, which needs packages that are missing; {way_out}"
            ) from None
        except Exception as error:  # of any kind: the files are foreign
            raise DataError(
                f"teacher {teacher}: neither tokenizer.json nor vocab.txt, and transformers cannot convert its "
                f"tokenizer: {first_line(error)}"
            ) from None
        if not (Path(folder) / "tokenizer.json").is_file():
            raise DataError(
                f"teacher {teacher}: transformers has no fast form of its tokenizer; expected tokenizer.json"
            )
        logger.info("teacher %s: its tokenizer is converted by transformers", teacher)
        yield Path(folder)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def _no_interface(model: nn.Module) -> DataError:
    return DataError(
        f"teacher: {type(model).__name__} does not use the attention interface of transformers, "
        f"so it cannot run packed and cannot be distilled"
    )


def _masks_itself(module: nn.Module) -> DataError:
    return DataError(f"teacher: {type(module).__name__} masks its own attention; expected a bidirectional encoder")


def _require_packable(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Reject an architecture that cannot take packed rows, by its signature."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise DataError(f"teacher {folder}: found an encoder-decoder; expected an encoder")
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise DataError(
            f"teacher {folder}: {type(model).__name__} does not accept position_ids, so it cannot run packed"
        )
    if getattr(model, "_supports_attention_backend", True) is False:
        raise _no_interface(model)
    causal = next((module for module in model.modules() if getattr(module, "is_causal", False) is True), None)
    if causal is not None:
        raise _masks_itself(causal)


def _first_position(model: nn.Module) -> int:
    """First position id: RoBERTa-style embeddings count from the padding id + 1, all others from 0."""
    embeddings = getattr(model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1  # type: ignore[union-attr]
    return 0


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,  # noqa: ANN401 (what transformers passes varies by model)
) -> tuple[Tensor, None]:
    """The attention that transformers calls in each layer, `[1, H, T, D]`; records the requested layer and stops."""
    recording = _current.get()
    recording.calls += 1
    if attention_mask is not None or getattr(module, "is_causal", False):
        raise _masks_itself(module)
    rows = [part[0].transpose(0, 1) for part in (query, key, value)]
    if recording.calls == recording.wanted:
        recording.found = Relations(query=rows[0], key=rows[1], value=rows[2])
        raise _Stop
    attended = attend(
        rows[0],
        rows[1],
        rows[2],
        recording.packed,
        scale=settings.get("scaling"),
        window=settings.get("sliding_window"),
    )
    return attended[None], None


def _check_packed(teacher: Teacher, model: Any, where: str) -> Relations:  # noqa: ANN401
    """Compare a packed run with separate runs through the model's own attention; returns the former."""
    generator = np.random.default_rng(0)
    lengths = [9, 2, min(_CHECKED_TOKENS, teacher.sizes.max_tokens)]
    texts = [generator.integers(5, model.config.vocab_size, size=length) for length in lengths]
    together = teacher.relations(pack(texts))
    parts = zip(*(getattr(together, name).split(lengths) for name in ("query", "key", "value")), strict=True)
    for text, packed_rows in zip(texts, parts, strict=True):
        for ours, theirs in zip(packed_rows, _own_projections(model, text, teacher.layer), strict=True):
            if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
                raise DataError(
                    f"teacher {where}: {type(model).__name__} gives different results on packed sequences, "
                    f"so it cannot be distilled"
                )
    return together


@torch.inference_mode()
def _own_projections(model: Any, text: np.ndarray, layer: int) -> Sequence[Tensor]:  # noqa: ANN401
    """Query, key, value `[N, H, D]` of one sequence, computed by the model with its eager attention and masks."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    seen: list[Sequence[Tensor]] = []
    eager = getattr(inspect.getmodule(type(model)), "eager_attention_forward", None)
    if eager is None:
        raise DataError(
            f"teacher: {type(model).__name__} has no eager attention to check against, so it cannot be distilled"
        )

    def watching(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **settings: Any) -> Any:  # noqa: ANN401
        assert eager is not None
        seen.append([part[0].transpose(0, 1) for part in (query, key, value)])
        return eager(module, query, key, value, *rest, **settings)

    AttentionInterface.register(f"{_INTERFACE}_check", watching)
    AttentionMaskInterface.register(f"{_INTERFACE}_check", eager_mask)
    model.set_attn_implementation(f"{_INTERFACE}_check")
    try:
        model(input_ids=torch.from_numpy(text)[None])
    finally:
        model.set_attn_implementation(_INTERFACE)
    return seen[layer - 1]
