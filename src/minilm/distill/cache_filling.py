"""Filling a cache: one pass of the teacher over the corpus, before the first step of a run.

In: a teacher, a corpus, the `CachedTeacher` of both. Out: its files, each written atomically and then listed in the
manifest; a pass that is killed goes on after the last one listed. What is in a file depends on its documents alone, so
neither a kill nor the number of processes, which share the files, changes a bit.

T tokens, W numbers of a row.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from minilm.corpus.shards import Shards
from minilm.distill.costs import shown_size
from minilm.distill.relation_loss import V2_PAIRS, relation_loss
from minilm.distill.room import Room, held_bytes
from minilm.distill.teacher_base import Teacher
from minilm.distill.teacher_cache import (
    MANIFEST,
    CachedTeacher,
    CacheManifest,
    PartInfo,
    encode,
    first_documents,
    part_name,
    row_bytes,
)
from minilm.errors import DataError, Interrupted, UsageError
from minilm.files.atomic import make_folder
from minilm.files.json import write_json
from minilm.files.lock import locked_folder
from minilm.files.regular import sha256_file
from minilm.files.tensors import write_safetensors
from minilm.model.encoder import Relations
from minilm.model.packing import Packed, pack
from minilm.model.token_budget import microbatches
from minilm.progress import Progress
from minilm.recipe import CacheSection
from minilm.train.distributed import Ranks, gathered, wait_for_first

logger = logging.getLogger(__name__)

PART_BYTES = 2**28  # of a file: what a kill loses at most, and what is held in memory meanwhile
_BATCH_TOKENS = 2**14
_MEASURED_DOCUMENTS, _MEASURED_TOKENS = 64, 2048
_GIB = 2**30


class Filling:
    """What is needed to fill a cache."""

    def __init__(
        self, cached: CachedTeacher, teacher: Teacher, shards: Shards, *, name: str, device: str, ranks: Ranks
    ) -> None:
        """Name the cache, a teacher called `name`, its corpus, where it runs, and this process among all of the run."""
        self._cached, self._teacher, self._shards = cached, teacher, shards
        self._name, self._device, self._ranks = name, device, ranks

    def run(self, limits: CacheSection, room: Room) -> CacheManifest:
        """Fill the cache unless it is complete, and open it.

        Args:
            limits: of its size.
            room: what is left of the disks beside what the run writes otherwise.

        Raises:
            UsageError: it would be larger than `cache.max_gib`, or another process is filling it.
            SystemProblem: it would be larger than what is free, or a file cannot be written.
            DataError: a file of it is damaged, or the teacher gives numbers that are not finite.
            Interrupted: Ctrl-C; the finished files are kept.
        """
        cached, ranks = self._cached, self._ranks
        found = cached.manifest()
        if gathered(found is not None and found.is_complete, ranks)[0]:
            found = self._whole()
            cached.open(found, ranks)
        else:
            begun = found or self._begun()
            require_room(cached, room, tokens=begun.tokens, width=sum(begun.sizes), limits=limits)
            with self._locked():
                wait_for_first(ranks)
                manifest = self._filled(cached.manifest() or begun)
                cached.open(manifest, ranks)
                if ranks.is_first and not manifest.is_complete:
                    self._save(self._measured(manifest))
                wait_for_first(ranks)
            found = self._whole()
        logger.info(
            "the teacher's relations are read from %s; %s: relation loss against computed ones %.3g, largest relative "
            "error of a query, key or value %.3g",
            cached.folder,
            found.key.precision,
            found.relation_loss,
            found.row_error,
        )
        return found

    def _whole(self) -> CacheManifest:
        """The manifest of the complete cache, which each process must see."""
        found, folder = self._cached.manifest(), self._cached.folder
        if found is None or not found.is_complete:
            raise DataError(f"{folder}: this process does not see it; choose a cache.folder that all processes share")
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder, which exists, for this run alone."""
        folder = self._cached.folder
        if not self._ranks.is_first:
            yield
            return
        make_folder(folder)
        with locked_folder(folder, busy=f"filling {folder}", instead="another cache.folder"):
            yield

    def _begun(self) -> CacheManifest:
        """The manifest before the first file; shapes are those of the relations of the shortest document."""
        shortest = int(np.argmin(self._shards.lengths))
        found = self._relations(self._packed([shortest]))
        shapes = [part.shape[1:] for part in (found.query, found.key, found.value)]
        width = sum(shape.numel() for shape in shapes)
        key = self._cached.key
        return CacheManifest(
            key=key,
            teacher=self._name,
            tokens=self._shards.manifest.tokens,
            heads=tuple(shape[0] for shape in shapes),
            widths=tuple(shape[1] for shape in shapes),
            part_tokens=max(1, PART_BYTES // row_bytes(key.precision, width)),
        )

    def _filled(self, manifest: CacheManifest) -> CacheManifest:
        """The manifest with all files; those that it does not list yet are written."""
        ranks, firsts = self._ranks, first_documents(self._shards.lengths, manifest.part_tokens)
        count = len(firsts) - 1
        if len(manifest.parts) == count:
            return manifest
        with self._reporting(manifest, count) as progress:
            while (done := len(manifest.parts)) < count:
                number = done + ranks.rank
                documents = range(*firsts[number : number + 2]) if number < count else range(0)
                alone = progress.advance if ranks.world_size == 1 else _nothing
                own = self._write(number, documents, manifest, alone) if documents else None
                new = [part for part in gathered(own, ranks) if part is not None]
                manifest = replace(manifest, parts=(*manifest.parts, *new))
                self._save(manifest)
                if ranks.world_size > 1:
                    progress.advance(sum(part.tokens for part in new))
        return manifest

    def _save(self, manifest: CacheManifest) -> None:
        if self._ranks.is_first:
            write_json(self._cached.folder / MANIFEST, manifest.to_json())

    @contextlib.contextmanager
    def _reporting(self, manifest: CacheManifest, count: int) -> Iterator[Progress]:
        """Show tokens, rate and time left; a Ctrl-C becomes an error that says how to go on."""
        folder = self._cached.folder
        others = sorted(path.name for path in folder.parent.iterdir() if path.is_dir() and path != folder)
        logger.info(
            "filling %s before the first step: %s tokens in %d file%s%s",
            folder,
            f"{manifest.tokens:,}",
            count,
            "s" * (count > 1),
            f"; of other teachers, layers, precisions or corpora are here: {', '.join(others)}" if others else "",
        )
        try:
            with Progress("store the teacher", unit="tokens", silent=not self._ranks.is_first) as progress:
                progress.begin(manifest.tokens, sum(part.tokens for part in manifest.parts))
                yield progress
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped by the user while filling {folder}; run the same command to resume after the last finished "
                "file"
            ) from None

    def _write(
        self, number: int, documents: range, manifest: CacheManifest, advance: Callable[[float], None]
    ) -> PartInfo:
        """Compute and write the file with these documents."""
        lengths = self._shards.lengths[documents.start : documents.stop]
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        whole: dict[str, Tensor] = {}
        for group in microbatches(lengths, token_budget=_BATCH_TOKENS):
            numbers = [documents[int(one)] for one in group]
            packed = self._packed(numbers)
            rows = _rows(self._relations(packed))
            self._require_finite(rows, packed, numbers)
            where = torch.from_numpy(np.concatenate([starts[one] + np.arange(lengths[one]) for one in group]))
            for name, values in encode(rows, manifest.sizes, manifest.key.precision).items():
                if name not in whole:
                    whole[name] = torch.empty((int(lengths.sum()), *values.shape[1:]), dtype=values.dtype)
                whole[name][where] = values.cpu()
            advance(packed.num_tokens)
        path = self._cached.folder / part_name(number)
        write_safetensors(path, whole)
        return PartInfo(file=path.name, documents=len(documents), tokens=int(lengths.sum()), sha256=sha256_file(path))

    def _packed(self, documents: list[int]) -> Packed:
        return pack([self._shards[document] for document in documents]).to(self._device)

    @torch.no_grad()
    def _relations(self, packed: Packed) -> Relations:
        return self._teacher.relations(packed)

    def _require_finite(self, rows: Tensor, packed: Packed, documents: list[int]) -> None:
        if bool(torch.isfinite(rows).all()):
            return
        parts = rows.split(list(packed.lengths))
        bad = next(one for one, part in zip(documents, parts, strict=True) if not torch.isfinite(part).all())
        raise DataError(
            f"teacher {self._name}: its relations of document {bad} of the corpus are not finite numbers, so they "
            "cannot be stored; use train.precision fp32, or another teacher"
        )

    def _measured(self, manifest: CacheManifest) -> CacheManifest:
        """The manifest with the error of stored relations, on documents from the whole corpus."""
        documents = _spread(self._shards.lengths)
        packed = self._packed(documents.tolist())
        computed, stored = self._relations(packed), self._cached.document_relations(packed, documents)
        heads = math.gcd(*manifest.heads)  # divides the widths, also where heads share keys
        loss = relation_loss(computed, stored, packed, pairs=V2_PAIRS, num_relation_heads=heads).sum()
        return replace(
            manifest,
            measured_tokens=packed.num_tokens,
            relation_loss=max(0.0, float(loss)),  # rounding
            row_error=max(
                _row_error(getattr(computed, name), getattr(stored, name)) for name in ("query", "key", "value")
            ),
        )


def _spread(lengths: np.ndarray) -> np.ndarray:
    """Documents at even distances, from the first to the last: as many as fit the budget, at least two of several."""
    count = min(len(lengths), _MEASURED_DOCUMENTS)
    while True:
        documents = np.unique(np.linspace(0, len(lengths) - 1, count).astype(np.int64))
        if count <= 2 or int(lengths[documents].sum()) <= _MEASURED_TOKENS:
            return documents
        count -= 1


def _nothing(_: float) -> None: ...


def _rows(relations: Relations) -> Tensor:
    """Query, key and value side by side, `[T, W]`."""
    return torch.cat([part.flatten(1) for part in (relations.query, relations.key, relations.value)], dim=1)


def _row_error(computed: Tensor, stored: Tensor) -> float:
    """Largest |computed - stored| / |computed| of a token, Euclidean."""
    exact = computed.flatten(1).float()
    norms = exact.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((exact - stored.flatten(1).float()).norm(dim=1) / norms).max())


def require_room(cached: CachedTeacher, room: Room, *, tokens: float, width: int, limits: CacheSection) -> str:
    """Require that a cache may be as large as it will be, with `width` numbers for each token; one sentence about it.

    `room` is what is left of the disks.

    Raises:
        UsageError: it would be larger than `cache.max_gib`.
        SystemProblem: what is missing of it would be larger than what is free beside what the run writes otherwise.
    """
    each = row_bytes(limits.precision, width)
    needed, root = tokens * each, cached.folder.parent
    what = f"cache: {shown_size(needed)} in {root} ({tokens:,.0f} tokens of {each:,} bytes, {limits.precision})"
    smaller = f", set cache.precision: int8 ({shown_size(tokens * row_bytes('int8', width))})"
    ways_out = f"{smaller if limits.precision != 'int8' else ''}, or remove the section cache"
    if needed > limits.max_gib * _GIB:
        raise UsageError(f"{what}, more than cache.max_gib ({limits.max_gib:g}): raise it{ways_out}")
    held, ways_out = held_bytes(cached.folder), f"choose another cache.folder{ways_out}"
    return room.require(cached.folder, needed, held=held, what=what, ways_out=ways_out)
