"""The teacher: any Hugging Face encoder, loaded, checked, and stopped at the distilled layer.

In: a model folder. Out: a `Teacher`, which turns `Packed` batches into `Relations` of one layer or of several, without
gradient, and later layers never run; or into hidden rows. Where it can it runs packed, on the native engine
(`teacher_native.py`) or in transformers (`teacher_packed.py`), else padded (`teacher_padded.py`). The model's own code
runs unchanged.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from minilm.distill.projections import find_attentions
from minilm.distill.teacher_base import Teacher, Version, Wanted
from minilm.distill.teacher_files import (
    explaining,
    first_line,
    require_files,
    require_weights,
    with_safetensors,
    without_load_report,
)
from minilm.distill.teacher_native import native_teacher
from minilm.distill.teacher_packed import masks_itself, packed_attention
from minilm.distill.teacher_padded import padded_attention
from minilm.distill.teacher_ways import PACKED, PADDED, first_position, packed_teacher, padded_teacher
from minilm.errors import DataError, SystemProblem, UsageError, one_line
from minilm.files.sentence_modules import transformer_folder
from minilm.model.prepacked import prepack
from minilm.model.without_weights import without_weights
from minilm.recipe.student_shape import TeacherSizes
from minilm.text.sentencepiece_layout import has_known_layout

logger = logging.getLogger(__name__)

PACKED_ONLY_TEACHERS = (
    *("albert", "data2vec-text", "ernie", "eurobert", "gte", "jina_embeddings_v3", "modernbert", "nomic_bert"),
    *("roberta-prelayernorm", "xlm-roberta-xl"),
)
"""Values of `model_type` that are known to run packed, besides the families that are also loaded and fine-tuned."""
PADDED_ONLY_TEACHERS = (
    *("bart", "convbert", "deberta", "deberta-v2", "megatron-bert", "mobilebert", "mpnet", "roformer", "t5"),
)
"""Those that are known to run padded."""
_FEED_FORWARD = ("intermediate_size", "hidden_dim", "d_ff", "encoder_ffn_dim")
_UNLIMITED = 2**31  # positions of a model that states no limit


def load_teacher(
    folder: Path | str,
    *,
    layer: int | Literal["last"] | None = None,
    version: Version = "v2",
    precision: torch.dtype = torch.float32,
    device: str = "cpu",
    native: bool = True,
    wanted: Wanted | None = None,
) -> Teacher:
    """Load a Hugging Face encoder from a local folder, frozen and ready for packed batches.

    On CPUs models of BERT's and RoBERTa's shape run on the native engine. Others run in transformers: packed, if three
    short texts give the same numbers packed and one by one through the model's own attention, else padded.

    Args:
        folder: a model folder; nothing is downloaded and no code in it is executed.
        layer: 1-based layer to distill, or `last`; None for that of the papers, see `default_layer`.
        version: of the loss: v1 needs the model's own attention, v2 its queries and keys.
        precision: of the weights during distillation.
        device: where to run.
        native: use the native engine where it can run the model.
        wanted: what it is to compute; None for the relations of the layer, for v1 with its own attention.

    Raises:
        SystemProblem: transformers is not installed.
        DataError: the model cannot be loaded, has no query, key and value, or its attention is causal.
        UsageError: the layer does not exist.
    """
    folder = Path(folder)
    sizes = read_sizes(folder, layer=layer, version=version)
    wanted = wanted or Wanted(layers=(sizes.layer,), attention=version == "v1")
    more = _beyond_native(sizes, wanted)
    if native and device == "cpu" and more:
        logger.info(
            "teacher %s: not on the native engine, which gives the relations of layer %d alone, not %s",
            folder,
            sizes.layer,
            more,
        )
    elif native and device == "cpu":
        found = native_teacher(folder, sizes, "bf16" if precision == torch.bfloat16 else "fp32")
        if found is not None:
            return found
    model = _load_model(folder)
    teacher = packed_teacher(model, sizes, str(folder), wanted) or padded_teacher(model, sizes, str(folder), wanted)
    _cast(model, device, precision)
    prepack(model)
    return teacher


def _cast(model: Any, device: str, precision: torch.dtype) -> None:  # noqa: ANN401
    """Move a model and cast what it was saved with, as transformers does when it loads a model in a precision.

    What its code computes stays in float32: in bfloat16 the frequencies of a rotary step would turn distant tokens
    by other angles.
    """
    computed = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if name in module._non_persistent_buffers_set
    ]
    model.to(device=device, dtype=precision)
    for module, name, buffer in computed:
        setattr(module, name, buffer.to(device))


def _beyond_native(sizes: TeacherSizes, wanted: Wanted) -> str:
    """What is wanted of a teacher besides the relations of its layer, in words; empty if nothing is."""
    if wanted.hidden:
        return "hidden rows"
    if wanted.layers == (sizes.layer,):
        return ""
    return f"those of layer{'s' * (len(wanted.layers) > 1)} {', '.join(map(str, wanted.layers))}"


def read_sizes(folder: Path, *, layer: int | Literal["last"] | None = None, version: Version = "v2") -> TeacherSizes:
    """The sizes of a teacher from its `config.json`; of the weights only the names and shapes are read.

    Raises:
        SystemProblem, DataError, UsageError: as for `load_teacher`, except for what only its numbers show.
    """
    inner = require_files(folder)
    from transformers import AutoConfig

    with explaining(folder), without_weights():
        config = AutoConfig.from_pretrained(inner, local_files_only=True, trust_remote_code=False)
        model = _encoder_of(_class_for(config).from_config(config, trust_remote_code=False))
    _require_encoder(model, folder)
    return _sizes_of(model, layer, version, str(folder))


def default_layer(config: Any, version: Version) -> int:  # noqa: ANN401 (a transformers configuration)
    """The layer, counted from 1, that the papers distill: the last; of some large teachers an earlier one in v2.

    Where some layers attend to a window only (ModernBERT), the last that attends to everything.
    """
    last = int(getattr(config, "num_hidden_layers", 0))
    if version == "v2" and (last, int(config.hidden_size)) == (24, 1024):
        return {"bert": 21, "roberta": 19, "xlm-roberta": 19}.get(config.model_type, last)
    kinds = list(getattr(config, "layer_types", None) or [])
    everywhere = [number for number, kind in enumerate(kinds, start=1) if kind == "full_attention"]
    return everywhere[-1] if everywhere else last


def _sizes_of(model: Any, layer: int | Literal["last"] | None, version: Version, where: str) -> TeacherSizes:  # noqa: ANN401
    """Sizes by the shapes of the projections, else by the configuration."""
    config = model.config
    num_layers = int(getattr(config, "num_hidden_layers", 0))
    wanted = default_layer(config, version) if layer is None else num_layers if layer == "last" else layer
    if not 1 <= wanted <= num_layers:
        raise UsageError(f"teacher.layer is {wanted}; {where} has layers 1 to {num_layers}")
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    attentions = find_attentions(model)
    if attentions is not None and len(attentions.modules) != num_layers:  # shared by layers, as in ALBERT
        attentions = None
    heads = heads if attentions is None else attentions.heads(wanted, heads)
    widths = None if attentions is None else attentions.widths(wanted)
    if widths is None:
        head_width = int(getattr(config, "head_dim", None) or width // heads)
        key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        widths = heads * head_width, key_heads * head_width
    positions = int(getattr(config, "max_position_embeddings", None) or _UNLIMITED)
    return TeacherSizes(
        num_layers=num_layers,
        layer=wanted,
        hidden_size=width,
        intermediate_size=int(_first_of(config, *_FEED_FORWARD) or 4 * width),
        num_heads=heads,
        query_width=widths[0],
        key_width=widths[1],
        max_tokens=positions - first_position(model),
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        vocab_size=_vocab_size(config),
    )


def _vocab_size(config: Any) -> int:  # noqa: ANN401
    """How many tokens have a row; transformers knows other names of the key."""
    found = _first_of(config, "vocab_size")
    if found is None:
        raise DataError(f"the configuration of this {config.model_type} model has no vocab_size: use another teacher")
    return found


def _first_of(config: Any, *names: str) -> int | None:  # noqa: ANN401
    """The first of several keys of a configuration that exists: families name a size differently."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def _class_for(config: Any) -> Any:  # noqa: ANN401
    """The class that loads the encoder alone, where a family has one (T5), saved with a decoder or without."""
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    name = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "")
    return AutoModelForTextEncoding if name.endswith("EncoderModel") else AutoModel


def _encoder_of(model: Any) -> Any:  # noqa: ANN401
    """The encoder of an encoder-decoder; any other model as it is."""
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _mask_of_padding(*sizes: Any, attention_mask: torch.Tensor | None = None, **settings: Any) -> torch.Tensor | None:  # noqa: ANN401
    """None for packed rows, which have no padding; else what models with separate attention add to scores."""
    from transformers.masking_utils import eager_mask

    return None if attention_mask is None else eager_mask(*sizes, attention_mask=attention_mask, **settings)


def _load_model(folder: Path) -> Any:  # noqa: ANN401 (a transformers model has no public static type)
    inner = require_files(folder)
    from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig
    from transformers.masking_utils import eager_mask
    from transformers.utils import logging as transformers_logging

    AttentionInterface.register(PACKED, packed_attention)
    AttentionInterface.register(PADDED, padded_attention)
    AttentionMaskInterface.register(PADDED, eager_mask)
    AttentionMaskInterface.register(PACKED, _mask_of_padding)
    transformers_logging.disable_progress_bar()
    with with_safetensors(inner) as safe, explaining(folder), without_load_report():
        config = AutoConfig.from_pretrained(safe, local_files_only=True, trust_remote_code=False)
        whole, loading = _class_for(config).from_pretrained(
            safe,
            attn_implementation=PACKED,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, with their names
            output_loading_info=True,
        )
    model = _encoder_of(whole)
    require_weights(whole, loading, folder)
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
                f"tokenizer ({first_line(error)}): use the complete folder of the model"
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


def _require_encoder(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Reject an architecture without what relations are made of, by its modules."""
    if any(getattr(module, "is_causal", False) is True for module in model.modules()):
        raise masks_itself(model, str(folder))
    if find_attentions(model) is None and not getattr(model, "_supports_attention_backend", False):
        raise DataError(
            f"teacher {folder}: {type(model).__name__} has no query, key and value, which relations are made of; "
            "choose a teacher with self-attention, such as BERT"
        )
