"""The teachers of text vectors: what is read of a folder before the texts, and the model that makes the vectors.

In: a folder of sentence-transformers, of any encoder. Out: a `VectorTeacher`. A family that `minilm.load` knows runs
on its engines; an asymmetric model is the encoder of one role; any other encoder is run by transformers, as a teacher
of `minilm distill`: packed where its numbers stay the same, else padded.

B texts, P number of pooling modes, E hidden width, W width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minilm.distill.teacher import load_teacher, read_sizes, tokenizer_folder
from minilm.distill.teacher_base import Teacher, Wanted, say_how_it_runs
from minilm.embedded import model_path
from minilm.errors import UsageError
from minilm.files.json import read_json
from minilm.finetune.vector_encoder import VectorEncoder
from minilm.infer.api import load
from minilm.infer.batching import TOKENS_PER_BATCH
from minilm.infer.engines.protocol import Float32s
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings, PoolingMode
from minilm.model.embedding_files import read_embedding
from minilm.model.metadata import config_file, read_config
from minilm.model.packed_ids import PackedIds
from minilm.model.packing import Packed
from minilm.model.pooling import pool_rows
from minilm.model.routes import Role, read_routes
from minilm.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class VectorTeacher:
    """A teacher that is not loaded yet.

    Attributes:
        name: as the recipe has it.
        folder: where it is.
        encoder: the folder of its encoder, whose checksums identify it.
        hidden_size: E.
        embedding: how a text becomes a vector.
        tokenizer: as it is in the folder.
        prompt: put before the texts.
        loaded: load it with other embedding settings.
    """

    name: str
    folder: Path
    encoder: Path
    hidden_size: int
    embedding: EmbeddingSettings
    tokenizer: Tokenizer
    prompt: str
    loaded: Callable[[EmbeddingSettings], VectorEncoder]

    @property
    def width(self) -> int:
        """W; raises DataError if the modules do not fit each other."""
        return self.embedding.width(self.hidden_size)


def find_teacher(name: str, role: Role | None) -> VectorTeacher:
    """The teacher in a folder, or of another name that `minilm.load` knows, for texts of a role.

    The role decides the prompt, and the encoder of an asymmetric model.

    Raises:
        DataError: it cannot be read, or would be computed differently here.
        UsageError: it has no such role, or it is asymmetric and there is none.
        SystemProblem: it needs transformers, which is not installed.
    """
    folder = model_path(name)
    routes = read_routes(folder)
    if routes is None and not EncoderConfig.is_family(read_json(config_file(folder))):
        return _of_transformers(name, folder, role)
    if routes is None:
        encoder, config = folder, read_config(folder)
        embedding = read_embedding(folder, model_max_tokens=config.max_tokens)
    elif role is None:
        raise UsageError(
            f"task.teacher {folder} has an encoder for queries and another for documents; set task.role to query or "
            "document, whichever the texts are; texts of both need a run for each"
        )
    else:
        route = routes.by_role[role]
        encoder, config, embedding = route.encoder, route.config, route.embedding
    return VectorTeacher(
        name=name,
        folder=folder,
        encoder=encoder,
        hidden_size=config.hidden_size,
        embedding=embedding,
        tokenizer=Tokenizer.load(encoder),
        prompt=embedding.prompt_of(prompt=None, role=role),
        loaded=partial(_load, folder, role),
    )


def _load(folder: Path, role: Role | None, settings: EmbeddingSettings) -> VectorEncoder:
    model = load(folder).route(role)
    width = model.config.hidden_size
    return VectorEncoder(folder, model.engine, model.tokenizer, embedding=settings, hidden_size=width)


def _of_transformers(name: str, folder: Path, role: Role | None) -> VectorTeacher:
    sizes = read_sizes(folder, layer="last")
    with tokenizer_folder(folder) as found:
        tokenizer = Tokenizer.load(found)
    tokenizer.require_vocab_size(sizes.vocab_size, where=str(folder))
    embedding = read_embedding(folder, model_max_tokens=sizes.max_tokens)
    return VectorTeacher(
        name=name,
        folder=folder,
        encoder=folder,
        hidden_size=sizes.hidden_size,
        embedding=embedding,
        tokenizer=tokenizer,
        prompt=embedding.prompt_of(prompt=None, role=role),
        loaded=partial(_load_transformers, folder, sizes.num_layers, tokenizer),
    )


def _load_transformers(folder: Path, layers: int, tokenizer: Tokenizer, settings: EmbeddingSettings) -> VectorEncoder:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = Wanted(layers=(layers,), hidden=True, output=True)
    teacher = load_teacher(folder, layer="last", device=device, native=False, wanted=wanted)
    return TransformersEncoder(folder, teacher, tokenizer, embedding=settings, device=device)


class _TeacherEngine:
    """Pools the rows of a teacher; adds the lengths of each batch to `lengths`."""

    tokens_per_batch = TOKENS_PER_BATCH

    def __init__(self, teacher: Teacher, lengths: list[np.ndarray], device: str) -> None:
        self._teacher, self._lengths, self._device = teacher, lengths, device

    @torch.inference_mode()
    def pooled(self, batch: PackedIds, pooling: Sequence[PoolingMode], *, skipped: int = 0) -> Float32s:
        """One vector per sequence, `[B, P * E]`."""
        packed = Packed.from_ids(batch).to(self._device)
        self._lengths.append(np.array(packed.lengths))
        rows_TE = self._teacher.hidden_of(packed)[self._teacher.layer]
        vectors: Float32s = pool_rows(rows_TE.float(), packed, pooling, skipped=skipped).cpu().numpy()
        return vectors


class TransformersEncoder(VectorEncoder):
    """A teacher that transformers runs; how, and with how much padding, is reported after its first texts."""

    def __init__(
        self, folder: Path, teacher: Teacher, tokenizer: Tokenizer, *, embedding: EmbeddingSettings, device: str
    ) -> None:
        """Wrap a teacher that was loaded for its output, on a device."""
        self._teacher, self._lengths = teacher, list[np.ndarray]()
        engine = _TeacherEngine(teacher, self._lengths, device)
        super().__init__(folder, engine, tokenizer, embedding=embedding, hidden_size=teacher.sizes.hidden_size)
        self._says_how = True

    def after_chunk(self, count: int) -> None:
        """Say how it runs, after the first `count` texts."""
        if self._says_how:
            say_how_it_runs(self._teacher, self.folder, self._lengths, of=f"the first {count:,} texts")
        self._says_how = False
        self._lengths.clear()
