"""Students: configuration, weight initialization, and saving.

In: a student section of a recipe, the teacher's folder and tokenizer, a seed. Out: an `Encoder` ready to
train; after training, a Hugging Face folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from minilm.errors import UsageError
from minilm.files.atomic import atomic_folder, atomic_write
from minilm.files.json import read_json
from minilm.files.sentence_modules import transformer_folder
from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import EncoderConfig, with_vocabulary_of
from minilm.model.embedding_files import read_embedding, require_no_weights, write_embedding
from minilm.model.encoder import Encoder
from minilm.model.heads import Model
from minilm.model.metadata import read_config
from minilm.randomness import derived_seed
from minilm.recipe import StudentSection
from minilm.text.tokenizer import Tokenizer


def make_student(section: StudentSection, *, teacher: Path, tokenizer: Tokenizer, seed: int) -> Encoder:
    """Build the student of a recipe section, before its first training step.

    Raises:
        UsageError: the student cannot be initialized from the teacher's layers.
        DataError: the tokenizer does not match the teacher.
    """
    config = student_config(section.shape, teacher=teacher, tokenizer=tokenizer)
    tokenizer.require_vocab_size(config.vocab_size, where=str(teacher))
    if section.init == "random":
        return random_student(config, seed=seed, name=section.name)
    return student_from_layers(config, teacher=teacher, layers=section.teacher_layers, seed=seed, name=section.name)


def require_copyable_embedding(teacher: Path) -> None:
    """Require that a student can have the teacher's embedding settings, before anything is computed.

    Raises:
        DataError: a module has weights, or the folder has settings that are not supported.
    """
    require_no_weights(read_embedding(teacher, model_max_tokens=sys.maxsize))


def save_student(student: Encoder, folder: Path, *, teacher: Path, tokenizer: Tokenizer, card: str) -> None:
    """Write a Hugging Face folder with the teacher's embedding settings; an existing folder is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    embedding = read_embedding(teacher, model_max_tokens=student.config.max_tokens)
    with atomic_folder(folder, replace=True) as aside:
        write_model(Model(student), aside)
        tokenizer.save(aside)
        write_embedding(aside, embedding, hidden_size=student.config.hidden_size)
        atomic_write(aside / "README.md", card)


def student_config(shape: EncoderConfig, *, teacher: Path, tokenizer: Tokenizer) -> EncoderConfig:
    """`shape` with the vocabulary, positions and family that the teacher's token ids require.

    From a teacher of an unsupported family, only the vocabulary is taken; the student is then BERT.
    """
    if EncoderConfig.is_family(read_json(transformer_folder(teacher) / "config.json")):
        return with_vocabulary_of(shape, read_config(teacher))
    return replace(shape, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id)


def random_student(config: EncoderConfig, *, seed: int, name: str) -> Encoder:
    """A student with weights from N(0, initializer_range), as in BERT."""
    encoder = Encoder(config)
    encoder.reset(torch.Generator().manual_seed(derived_seed(seed, "student", name)))
    return encoder


def student_from_layers(
    config: EncoderConfig, *, teacher: Path, layers: Sequence[int], seed: int, name: str
) -> Encoder:
    """A student initialized with the teacher's embeddings and the given layers (1-based, in order).

    Raises:
        UsageError: the widths differ, or a layer does not exist.
    """
    source = read_model(teacher).encoder
    differing = [
        f"{key} {getattr(config, key)} (teacher {getattr(source.config, key)})"
        for key in ("hidden_size", "num_heads", "intermediate_size")
        if getattr(config, key) != getattr(source.config, key)
    ]
    if differing:
        raise UsageError(
            f"student {name!r}: init 'layers' copies weights and requires the teacher's widths; "
            f"found {', '.join(differing)}; use init: random"
        )
    wrong = [layer for layer in layers if not 1 <= layer <= source.config.num_layers]
    if wrong or len(layers) != config.num_layers:
        raise UsageError(
            f"student {name!r}: teacher_layers is {list(layers)}; expected {config.num_layers} layers "
            f"between 1 and {source.config.num_layers}"
        )
    student = random_student(config, seed=seed, name=name)
    student.embeddings.load_state_dict(source.embeddings.state_dict())
    for target, number in zip(student.layers, layers, strict=True):
        target.load_state_dict(source.layers[number - 1].state_dict())
    if source.pooler is not None and student.pooler is not None:
        student.pooler.load_state_dict(source.pooler.state_dict())
    return student
