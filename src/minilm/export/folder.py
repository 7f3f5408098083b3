"""A copy of a model folder: what a model is, without what other libraries made of its weights.

In: a model folder, of Hugging Face or sentence-transformers. Out: its files in another folder.
"""

from __future__ import annotations

from pathlib import Path

from minilm.files.atomic import make_folder
from minilm.files.copying import copy_file
from minilm.files.sentence_modules import MODEL_FILE, MODULES, read_modules, transformer_folder
from minilm.infer.engines.int8 import FACTS, SCALES
from minilm.model.metadata import weight_files
from minilm.model.vector_ranges import VECTOR_RANGES
from minilm.tasks.saved import TASK_FILE

_WEIGHTS = (".safetensors", ".bin")
_OF_THE_WHOLE = (MODULES, MODEL_FILE, VECTOR_RANGES, TASK_FILE, "README.md")
_OF_OTHERS = (".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".py", ".pyc", ".tflite", ".xml")


def copy_model(folder: Path, target: Path) -> None:
    """Copy configuration, tokenizer, weights and modules into the existing folder `target`.

    Hidden files, weights for other libraries, a second format of the same weights and the scales of an earlier
    quantization are left out.

    Raises:
        DataError: a file cannot be read.
        SystemProblem: a file cannot be written.
    """
    encoder = transformer_folder(folder)
    index, weights = weight_files(encoder)
    read = {index, *weights}
    for part in dict.fromkeys([folder, encoder, *(folder / one.path for one in read_modules(folder))]):
        inside = target / part.relative_to(folder)
        make_folder(inside)
        for file in sorted(part.iterdir()) if part.is_dir() else []:
            left_out = part == encoder and _is_weight(file) and file not in read
            if _is_kept(file) and not left_out:
                copy_file(file, inside / file.name)


def copy_encoder(folder: Path, target: Path) -> None:
    """Copy configuration, tokenizer and weights of a model's encoder, without its modules, into the folder `target`.

    Raises:
        DataError: a file cannot be read.
        SystemProblem: a file cannot be written.
    """
    encoder = transformer_folder(folder)
    index, weights = weight_files(encoder)
    for file in sorted(encoder.iterdir()):
        is_settings = file.name in _OF_THE_WHOLE or file.match("sentence_*_config.json")
        if _is_kept(file) and not is_settings and (file in {index, *weights} or not _is_weight(file)):
            copy_file(file, target / file.name)


def _is_weight(file: Path) -> bool:
    return file.suffix in _WEIGHTS or file.name.endswith(".index.json")


def _is_kept(file: Path) -> bool:
    of_others = file.suffix in _OF_OTHERS or file.name in (SCALES, FACTS)
    return file.is_file() and not file.name.startswith(".") and not of_others
