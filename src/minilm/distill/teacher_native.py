"""A teacher of BERT's or RoBERTa's shape on the native engine: packed, in compiled kernels, on CPUs.

In: a model folder, `Packed` batches. Out: `Relations`, the same bits for any cut into batches and any number of
threads.

T packed tokens, H heads, D head width, E hidden width.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from minilm.distill.teacher_base import Teacher
from minilm.environment import versions_of
from minilm.errors import MinilmError
from minilm.files.json import read_json
from minilm.infer.engines.native import NativeEngine, load_native_engine
from minilm.kernels.encoder import chosen_isa
from minilm.kernels.library import find_library
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Relations
from minilm.model.metadata import config_file
from minilm.model.packed_ids import PackedIds
from minilm.model.packing import Packed
from minilm.model.precision import Precision
from minilm.recipe.student_shape import TeacherSizes

logger = logging.getLogger(__name__)


class NativeTeacher(Teacher):
    """A model that the kernels run; see `load_teacher`."""

    def __init__(self, engine: NativeEngine, *, sizes: TeacherSizes) -> None:
        """Wrap a loaded engine."""
        super().__init__(sizes)
        self._engine = engine

    @property
    def engine(self) -> str:
        """What computes it: bits differ between instruction sets."""
        return f"native, {chosen_isa()}"

    @property
    def versions(self) -> str:
        """Of the kernels, by their sources: they alone compute it."""
        return f"{versions_of('minilm')}, kernels {find_library().text('minilm_kernels_source_hash')}"

    def relations(self, packed: Packed) -> Relations:
        """Query, key and value of the layer, each `[T, H, D]`, float32."""
        ids = PackedIds(
            token_ids=packed.token_ids.numpy().astype("int32"),
            segment_ids=packed.segment_ids.numpy().astype("int32"),
            cu_seqlens=packed.cu_seqlens.numpy(),
        )
        query, key, value = (
            torch.from_numpy(rows).unflatten(1, (self.sizes.num_heads, -1))
            for rows in self._engine.relations(ids, self.layer)
        )
        return Relations(query=query, key=key, value=value)


def native_teacher(folder: Path, sizes: TeacherSizes, precision: Precision) -> NativeTeacher | None:
    """The teacher on the native engine; None, with the reason in the log, where that cannot run it.

    A folder that is damaged is left to transformers too, which reports more of it.
    """
    if not EncoderConfig.is_family(read_json(config_file(folder))):
        return None
    try:
        engine = load_native_engine(folder, None, precision, torch.get_num_threads())
    except MinilmError as error:  # CannotRun, or files that this encoder reads differently
        logger.info("teacher %s: not on the native engine: %s", folder, error)
        return None
    return NativeTeacher(engine, sizes=sizes)
