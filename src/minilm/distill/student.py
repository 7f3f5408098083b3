"""Students: configuration, weight initialization, and saving.

In: a student section of a recipe, the teacher's folder, sizes and tokenizer, a seed. Out: a `StudentPlan` from
configurations alone; an `Encoder` ready to train; after training, a Hugging Face folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from minilm.embedded import model_path
from minilm.errors import DataError, UsageError
from minilm.files.atomic import atomic_folder, atomic_write
from minilm.files.json import read_json
from minilm.files.sentence_modules import MODULES, transformer_folder
from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import COUNTED, EncoderConfig, with_vocabulary_of
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import read_embedding, write_embedding
from minilm.model.encoder import Encoder
from minilm.model.heads import MaskedLanguageHead, Model, new_head
from minilm.model.inherited import inherit_layers
from minilm.model.metadata import read_config, untied_output, weight_files
from minilm.model.vector_modules import Normalize
from minilm.randomness import derived_seed
from minilm.recipe import StudentSection
from minilm.recipe.distill import STARTS
from minilm.recipe.student_shape import TeacherSizes, copied_layers, student_shape
from minilm.text.tokenizer import Tokenizer

_OF_THE_TEACHER = ("family", "vocab_size", "pad_token_id", "max_positions", "num_segments", "layer_norm_eps")


@dataclass(frozen=True, kw_only=True)
class StudentPlan:
    """A student before its weights exist.

    Attributes:
        name: of the student.
        config: its complete configuration.
        layers: layers of the teacher that it starts as, counted from 1; empty for another start.
        continued: the model whose training is continued; None for another start.
    """

    name: str
    config: EncoderConfig
    layers: tuple[int, ...] = ()
    continued: Path | None = None

    @property
    def start(self) -> str:
        """Where its weights start."""
        if self.continued is not None:
            return f"continues {self.continued}"
        if not self.layers:
            return "starts at random"
        return f"starts as layer{'s' * (len(self.layers) > 1)} {', '.join(map(str, self.layers))} of the teacher"


def plan_student(section: StudentSection, sizes: TeacherSizes, *, teacher: Path, tokenizer: Tokenizer) -> StudentPlan:
    """The configuration of a student and its start, by configuration files alone.

    Raises:
        UsageError: the sizes do not fit each other, the teacher's layers, or the model that is continued.
        DataError: the teacher is damaged, or that model has another tokenizer.
    """
    if section.init not in STARTS:
        return _plan_continued(section, teacher=teacher, tokenizer=tokenizer)
    values = read_json(transformer_folder(teacher) / "config.json")
    if section.init == "layers" and not (EncoderConfig.is_family(values) and read_config(teacher).family in COUNTED):
        raise UsageError(
            f"student {section.name!r}: init 'layers' copies weights, which works for {', '.join(COUNTED)}; the "
            f"model_type of {teacher} is {values.get('model_type')!r:.60}: use init: random"
        )
    shape = student_shape(section, sizes)
    config = student_config(shape, teacher=teacher, tokenizer=tokenizer)
    return StudentPlan(name=section.name, config=config, layers=copied_layers(section, shape.num_layers, sizes))


def _plan_continued(section: StudentSection, *, teacher: Path, tokenizer: Tokenizer) -> StudentPlan:
    """A student that continues the model at `section.init`, which must have its shape and its teacher's vocabulary."""
    advice = f"student {section.name!r}: init is {section.init!r}; expected random, layers, or a model folder"
    try:
        folder = model_path(section.init)
    except DataError as error:
        raise UsageError(f"{advice} ({error})") from None
    if not folder.is_dir():
        raise UsageError(advice)
    config = read_config(folder)
    unlike = {key: size for key, size in section.sizes.items() if getattr(config, key) != size}
    if unlike:
        raise UsageError(
            f"student {section.name!r}: the shape of {folder} is {_listed(config, section.sizes)}, that of the recipe "
            f"{', '.join(f'{key} {size}' for key, size in section.sizes.items())}: omit the sizes, or use init: random"
        )
    expected = student_config(config, teacher=teacher, tokenizer=tokenizer)
    differing = [key for key in _OF_THE_TEACHER if getattr(config, key) != getattr(expected, key)]
    if differing:
        raise UsageError(
            f"student {section.name!r}: {folder} has {_listed(config, differing)}, students of this teacher have "
            f"{_listed(expected, differing)}: continue a student of the same teacher, or use init: random"
        )
    if Tokenizer.load(folder).fingerprint != tokenizer.fingerprint:
        raise DataError(
            f"student {section.name!r}: {folder} has another tokenizer than the teacher {teacher}: continue a student "
            "of the same teacher, or use init: random"
        )
    weight_files(transformer_folder(folder))  # raises if there are none
    return StudentPlan(name=section.name, config=config, continued=folder)


def _listed(config: EncoderConfig, keys: Iterable[str]) -> str:
    return ", ".join(f"{key} {getattr(config, key)}" for key in keys)


def make_student(plan: StudentPlan, *, teacher: Path, seed: int) -> Encoder:
    """Build a student, before its first training step; raises DataError if a model that it starts from is damaged."""
    if plan.continued is not None:
        return read_model(plan.continued).encoder
    student = random_student(plan.config, seed=seed, name=plan.name)
    if plan.layers:
        inherit_layers(student, read_model(teacher).encoder, plan.layers)
    return student


def make_head(plan: StudentPlan, *, seed: int) -> MaskedLanguageHead:
    """Build a student's head for masked tokens: that of the model that it continues, if it has one, else a random one.

    Raises:
        DataError: the model that it continues is damaged.
    """
    if plan.continued is not None and not untied_output(plan.continued):
        found = read_model(plan.continued, head="mlm", fresh_head=False).head
        if isinstance(found, MaskedLanguageHead):
            return found
    generator = torch.Generator().manual_seed(derived_seed(seed, "head", plan.name))
    made = new_head("mlm", plan.config, num_labels=0, generator=generator)
    assert isinstance(made, MaskedLanguageHead)
    return made


def copyable_embedding(teacher: Path, *, max_tokens: int = sys.maxsize) -> EmbeddingSettings:
    """The teacher's embedding settings, for a student; called before anything is computed, too.

    Raises:
        DataError: a module has weights that were trained together with the teacher, or the folder has settings that
            are not supported.
    """
    settings = read_embedding(teacher, model_max_tokens=max_tokens)
    for module in settings.modules:
        if not isinstance(module, Normalize):
            raise DataError(
                f"{module.where}: {type(module).__name__} has weights for the vectors of its own model and cannot be "
                f"copied to another; use a copy of the folder without this module in {MODULES}"
            )
    return settings


def save_student(
    student: Encoder,
    folder: Path,
    *,
    teacher: Path,
    tokenizer: Tokenizer,
    card: str,
    head: MaskedLanguageHead | None = None,
) -> None:
    """Write a Hugging Face folder with the teacher's embedding settings; an existing folder is replaced.

    Raises:
        DataError: as for `copyable_embedding`.
    """
    embedding = copyable_embedding(teacher, max_tokens=student.config.max_tokens)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder, replace=True) as aside:
        write_model(Model(student, head), aside, head=None if head is None else "mlm")
        tokenizer.save(aside, segments=student.config.num_segments > 0)
        write_embedding(aside, embedding, hidden_size=student.config.hidden_size)
        atomic_write(aside / "README.md", card)


def student_config(shape: EncoderConfig, *, teacher: Path, tokenizer: Tokenizer) -> EncoderConfig:
    """`shape` with the vocabulary, positions and family that the teacher's token ids require.

    A student of MPNet is a RoBERTa: its ids and their positions are those of MPNet, without the bias of relative
    positions. From a teacher of an unsupported family, only the vocabulary is taken; the student is then BERT.
    """
    if EncoderConfig.is_family(read_json(transformer_folder(teacher) / "config.json")):
        found = read_config(teacher)
        if found.family not in COUNTED:
            found = replace(found, family="roberta", num_segments=1)
        return with_vocabulary_of(shape, found)
    return replace(shape, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id)


def random_student(config: EncoderConfig, *, seed: int, name: str) -> Encoder:
    """A student with weights from N(0, initializer_range), as in BERT."""
    encoder = Encoder(config)
    encoder.reset(torch.Generator().manual_seed(derived_seed(seed, "student", name)))
    return encoder
