"""The torch engine, which is always available: the packed encoder.

In: a model, batches as `PackedIds`. Out: numpy arrays, float32.

B sequences, T packed tokens, E hidden width, P number of pooling modes, C labels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from minilm.decode.decoder import Decoder, PosShift
from minilm.errors import UsageError
from minilm.infer.batching import TOKENS_PER_BATCH
from minilm.infer.engines.protocol import CannotRun, Float32s
from minilm.model.checkpoint import read_model
from minilm.model.embedding import PoolingMode
from minilm.model.heads import HEADS, Model
from minilm.model.metadata import HeadName, untied_output
from minilm.model.packed_ids import PackedIds
from minilm.model.packing import Packed
from minilm.model.pooling import pool_rows
from minilm.model.precision import FloatPrecision, Precision, torch_dtype
from minilm.model.prepacked import prepack
from minilm.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def load_torch_engine(folder: Path, head: HeadName | None, precision: Precision, threads: int | None) -> TorchEngine:
    """Read the model in `folder`, without an mlm head that was not trained or is not supported (which is reported).

    `threads` sets the number of torch's threads for the whole process.

    Raises as `require_own_process`, and CannotRun for int8.
    """
    if precision == "int8":
        raise CannotRun("it does not compute in int8, only the native engine does")
    require_own_process()
    if threads is not None:
        torch.set_num_threads(threads)
    if head == "mlm" and (untied := untied_output(folder)):
        logger.warning("%s; the encoder is loaded without it", untied)
        head = None
    model = read_model(folder, head=head, fresh_head=head != "mlm")
    return TorchEngine(model, precision=precision)


@lru_cache(maxsize=1)
def _process_of_threads() -> int:
    """The process that loaded the first model: loading starts torch's threads."""
    return os.getpid()


def require_own_process() -> None:
    """Check that torch's threads run in this process; where they do not, torch waits for them forever.

    Raises:
        UsageError: a model was used before this process was forked, and torch has more than one thread.
    """
    if _process_of_threads() != os.getpid() and torch.get_num_threads() > 1:
        raise UsageError(
            "the model was used before this process was forked, and torch's threads do not survive a fork: load the "
            "model in the child only, start the child with 'spawn', or call torch.set_num_threads(1) in the child"
        )


class TorchEngine:
    """The packed encoder with frozen weights; on CPUs its linear maps are prepacked."""

    tokens_per_batch = TOKENS_PER_BATCH

    def __init__(self, model: Model, *, precision: FloatPrecision = "fp32") -> None:
        """Convert and freeze the weights of `model` in place."""
        self._model = model.eval().requires_grad_(False).to(torch_dtype(precision))
        self._device = self._model.encoder.embeddings.word.weight.device
        self.head = next((name for name, kind in HEADS.items() if type(model.head) is kind), None)
        prepack(self._model)
        self._decoder: Decoder | None = None

    @torch.inference_mode()
    def pooled(self, batch: PackedIds, pooling: Sequence[PoolingMode], *, skipped: int = 0) -> Float32s:
        """One vector per sequence, `[B, P * E]`."""
        packed = self._packed(batch)
        if tuple(pooling) == ("cls",) and not skipped:
            return _numpy(self._model.encoder.first(packed))
        return _numpy(pool_rows(self._model.encoder(packed).float(), packed, pooling, skipped=skipped))

    @torch.inference_mode()
    def classify(self, batch: PackedIds) -> Float32s:
        """Scores of the classification head, `[B, C]`."""
        return _numpy(self._model(self._packed(batch)))

    @torch.inference_mode()
    def tokens(self, batch: PackedIds) -> Float32s:
        """Scores of the head for every token, `[T, C]`."""
        return _numpy(self._model(self._packed(batch)))

    def decoder(self, tokenizer: Tokenizer, *, pos_shift: PosShift) -> Decoder:
        """A decoder that uses the model's mlm head; raises UsageError if it has none."""
        require_own_process()
        if self._decoder is None:
            self._decoder = Decoder(self._model, tokenizer, pos_shift=pos_shift)
        return self._decoder

    def _packed(self, batch: PackedIds) -> Packed:
        require_own_process()
        return Packed.from_ids(batch).to(self._device)


def _numpy(rows: Tensor) -> Float32s:
    array: Float32s = rows.float().cpu().numpy()
    return array
