"""Stored relations of a teacher's layer over a corpus: with them, further epochs, seeds and students need no teacher.

In: a folder beside the corpus, which `cache_filling.py` fills. Out: `Relations` of documents, read from disk.

`manifest.json` says what the numbers are of, and lists the files. Each has a row per token of consecutive documents:
query, key and value side by side, so that a document is one piece of the file. `rows` is bfloat16, or int8 with a
factor for each of the three in `scales`.

T tokens, W numbers of a row, H heads, D head width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from minilm.corpus.shards import ShardManifest
from minilm.distill.plan import DistillPlan
from minilm.distill.teacher_base import ComputedBy, Teacher
from minilm.errors import DataError, UsageError
from minilm.files.checked import Count, PositiveInt, from_json
from minilm.files.json import read_json
from minilm.files.regular import sha256_file, sha256_text
from minilm.files.tensors import StoredArray, read_pieces, stored_arrays
from minilm.model.encoder import Relations
from minilm.model.metadata import model_checksums
from minilm.model.packing import Packed, on_device
from minilm.progress import BYTES, Progress
from minilm.recipe import Distillation, DistillRecipe, LossSection
from minilm.train.distributed import Ranks

MANIFEST = "manifest.json"
_FORMAT = 2
_ENDING = ".teacher"  # of the folder beside the corpus
_SCALE_BYTES = 4
_TYPES = {"bf16": {"rows": "BF16"}, "int8": {"rows": "I8", "scales": "F32"}}
_TORCH_TYPES = {"BF16": torch.bfloat16, "I8": torch.int8, "F32": torch.float32}

StoragePrecision = Literal["bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """What decides the stored numbers; each key has a folder.

    Attributes:
        teacher_config: checksum of the teacher's configuration.
        teacher_weights: of its weights.
        layer: the distilled one, counted from 1.
        engine: what computes it.
        versions: of that.
        device: where.
        computed_in: the precision of that.
        corpus: fingerprint of its shards.
        precision: of what is stored.
        format: of the files.
    """

    teacher_config: str
    teacher_weights: str
    layer: Count
    engine: str
    versions: str
    device: str
    computed_in: Literal["fp32", "bf16"]
    corpus: str
    precision: StoragePrecision
    format: Count = _FORMAT

    @property
    def name(self) -> str:
        """The name of its folder."""
        digest = sha256_text(json.dumps(asdict(self), sort_keys=True))
        return f"layer-{self.layer}-{self.precision}-{digest[:12]}"


@dataclass(frozen=True, kw_only=True)
class PartInfo:
    """One file: its name, size, and the SHA-256 of its bytes."""

    file: str
    documents: Count
    tokens: Count
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CacheManifest:
    """What a folder holds; it is complete once its error is known.

    Attributes:
        key: what decides the numbers.
        teacher: the name of the teacher, for readers.
        tokens: of the corpus.
        heads: H of query, key and value.
        widths: D of each.
        part_tokens: max tokens of a file; a longer document has its own.
        parts: the files that are finished, in order.
        measured_tokens: tokens whose stored numbers were compared with computed ones.
        relation_loss: loss of the stored query-query, key-key and value-value relations against the computed ones.
        row_error: largest relative error of a stored query, key or value of a token.
    """

    key: CacheKey
    teacher: str
    tokens: Count
    heads: tuple[int, ...]
    widths: tuple[int, ...]
    part_tokens: PositiveInt
    parts: tuple[PartInfo, ...] = ()
    measured_tokens: Count = 0
    relation_loss: float | None = None
    row_error: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all files are there, and their error is known."""
        return self.relation_loss is not None and self.row_error is not None

    @property
    def sizes(self) -> list[int]:
        """Numbers of a query, a key and a value."""
        return [heads * width for heads, width in zip(self.heads, self.widths, strict=True)]

    def to_json(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def row_bytes(precision: StoragePrecision, width: int) -> int:
    """Bytes of a token with `width` numbers."""
    return 2 * width if precision == "bf16" else width + 3 * _SCALE_BYTES


def part_name(number: int) -> str:
    """The file name of part `number` (from 0)."""
    return f"part-{number:05d}.safetensors"


def first_documents(lengths: np.ndarray, part_tokens: int) -> list[int]:
    """The first document of each part, then the number of documents."""
    ends = np.cumsum(lengths, dtype=np.int64)
    firsts = [0]
    while firsts[-1] < len(ends):
        used = int(ends[firsts[-1] - 1]) if firsts[-1] else 0
        stop = int(np.searchsorted(ends, used + part_tokens, side="right"))
        firsts.append(max(stop, firsts[-1] + 1))
    return firsts


def encode(rows: Tensor, sizes: list[int], precision: StoragePrecision) -> dict[str, Tensor]:
    """Rows `[T, W]` as they are stored; int8 has a symmetric scale for each projection of a row."""
    if precision == "bf16":
        return {"rows": rows.to(torch.bfloat16)}
    parts = rows.float().split(sizes, dim=1)
    scales = torch.stack([part.abs().amax(1) / 127 for part in parts], dim=1)
    divisors = torch.where(scales > 0, scales, 1.0).split(1, dim=1)
    whole = [torch.round(part / by) for part, by in zip(parts, divisors, strict=True)]
    return {"rows": torch.cat(whole, dim=1).clamp(-127, 127).to(torch.int8), "scales": scales}


def decode(stored: Mapping[str, Tensor], sizes: list[int]) -> tuple[Tensor, ...]:
    """Query, key and value of stored rows, `[T, H * D]` each."""
    parts: tuple[Tensor, ...] = stored["rows"].split(sizes, dim=1)
    if "scales" not in stored:
        return parts
    return tuple(part * by for part, by in zip(parts, stored["scales"].split(1, dim=1), strict=True))


def cache_root(recipe: Distillation) -> Path:
    """The folder of all caches of a corpus: what the recipe says, else beside the corpus."""
    if recipe.cache is not None and recipe.cache.folder is not None:
        return Path(recipe.cache.folder)
    named = recipe.data.corpus
    corpus = Path(recipe.out) / "corpus" if named is None else Path(named).resolve()
    return corpus.with_name(f"{corpus.name}{_ENDING}")


def require_storable(loss: LossSection, plan: DistillPlan, teacher: Teacher | None) -> None:
    """Require that all that a loss needs of its teacher are queries, keys and values of one layer, always the same.

    Raises:
        UsageError: something else is needed.
    """
    layers = ", ".join(map(str, plan.teacher_layers))
    found = next(
        text
        for is_so, text in (
            (loss.objective != "relations", f"loss.objective is {loss.objective}"),
            (loss.mask_tokens is not None, "loss.mask_tokens masks other tokens in each epoch"),
            (len(plan.teacher_layers) > 1, f"loss.layers compares layers {layers} of the teacher"),
            (
                teacher is not None and teacher.own_attention,
                f"loss.version v1 compares the attention that the teacher {plan.teacher} computes itself",
            ),
            (True, ""),
        )
        if is_so
    )
    if found:
        raise UsageError(
            f"cache: it holds queries, keys and values of one layer, but {found}: remove the section cache, or use "
            "loss.version v2 on one layer"
        )


def cached_teacher(
    recipe: DistillRecipe,
    plan: DistillPlan,
    corpus: ShardManifest,
    lengths: np.ndarray,
    *,
    computed_by: ComputedBy | None,
    device: str,
) -> CachedTeacher | None:
    """The stored relations of a recipe's teacher, whether they exist or not; None if the recipe stores none.

    Raises:
        DataError: the teacher has no weights.
    """
    if recipe.cache is None or computed_by is None:
        return None
    sums = model_checksums(plan.teacher)
    key = CacheKey(
        teacher_config=sums["config"],
        teacher_weights=sums["weights"],
        layer=plan.teacher_layers[0],
        engine=computed_by.engine,
        versions=computed_by.versions,
        device=device,
        computed_in=recipe.train.precision,
        corpus=corpus.fingerprint,
        precision=recipe.cache.precision,
    )
    return CachedTeacher(cache_root(recipe) / key.name, key, lengths)


class CachedTeacher:
    """Relations of the documents of a corpus, read from a folder; `open` it first."""

    def __init__(self, folder: Path, key: CacheKey, lengths: np.ndarray) -> None:
        """Name the folder of a key, and the tokens of each document of the corpus."""
        self.folder, self.key, self.lengths = folder, key, lengths
        self.remedy = f"remove the folder {folder}, the run fills it again"
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])  # in tokens of the corpus
        self._manifest: CacheManifest | None = None
        self._firsts = np.zeros(0, dtype=np.int64)
        self._arrays: list[dict[str, StoredArray]] = []

    def manifest(self) -> CacheManifest | None:
        """What is in the folder; None if there is nothing yet.

        Raises:
            DataError: the manifest is damaged, or of something else.
        """
        path = self.folder / MANIFEST
        if not path.is_file():
            return None
        try:
            values = read_json(path)
        except DataError as error:
            raise DataError(f"{error}; {self.remedy}") from None
        found = from_json(CacheManifest, values, where=path, remedy=self.remedy)
        firsts = first_documents(self.lengths, found.part_tokens)
        expected = [
            (part_name(number), stop - first, int(self._starts[stop] - self._starts[first]))
            for number, (first, stop) in enumerate(pairwise(firsts))
        ]
        listed = [(part.file, part.documents, part.tokens) for part in found.parts]
        fits = len(found.heads) == len(found.widths) == 3 and min(*found.heads, *found.widths) > 0
        whole = len(listed) == len(expected) or not found.is_complete
        if not (fits and whole and found.key == self.key and listed == expected[: len(listed)]):
            raise DataError(
                f"{path}: found the relations of another teacher or corpus, expected those of this run; {self.remedy}"
            )
        return found

    @property
    def is_complete(self) -> bool:
        """Whether everything is stored; raises DataError as `manifest` does."""
        found = self.manifest()
        return found is not None and found.is_complete

    def open(self, manifest: CacheManifest, ranks: Ranks) -> None:
        """Compare the checksums of all files, which the processes share, and read them from now on.

        Raises:
            DataError: a file is missing or damaged.
        """
        files = [self.folder / part.file for part in manifest.parts]
        for file in files:
            if not file.is_file():
                raise DataError(f"{file}: missing, but listed in {MANIFEST}; {self.remedy}")
        with Progress("check the cache", unit=BYTES, silent=not ranks.is_first) as progress:
            own = list(zip(files, manifest.parts, strict=True))[ranks.rank :: ranks.world_size]
            progress.begin(sum(file.stat().st_size for file, _ in own))
            for file, part in own:
                if sha256_file(file) != part.sha256:
                    raise DataError(f"{file}: the contents do not match the checksum in {MANIFEST}; {self.remedy}")
                progress.advance(file.stat().st_size)
        self._arrays = [self._arrays_of(part, sum(manifest.sizes)) for part in manifest.parts]
        self._firsts = np.array(first_documents(self.lengths, manifest.part_tokens))
        self._manifest = manifest

    def _arrays_of(self, part: PartInfo, width: int) -> dict[str, StoredArray]:
        """Where the arrays of a file are."""
        path = self.folder / part.file
        found = stored_arrays(path)
        shapes = {"rows": (part.tokens, width), "scales": (part.tokens, 3)}
        expected = {name: (kind, shapes[name]) for name, kind in _TYPES[self.key.precision].items()}
        if {name: (array.dtype, array.shape) for name, array in found.items()} != expected:
            raise DataError(f"{path}: sizes or types do not match {MANIFEST}; {self.remedy}")
        return found

    def document_relations(self, packed: Packed, documents: np.ndarray) -> Relations:
        """Query, key and value of documents, `[T, H, D]` each: bfloat16, or float32 if they are stored as int8."""
        assert self._manifest is not None, "opened before"
        stored = {name: on_device(rows, packed.token_ids.device) for name, rows in self._read(documents).items()}
        parts = decode(stored, self._manifest.sizes)
        query, key, value = (
            part.unflatten(1, (heads, -1)) for part, heads in zip(parts, self._manifest.heads, strict=True)
        )
        return Relations(query=query, key=key, value=value)

    def relations_of(self, packed: Packed) -> Mapping[int, Relations]:
        """Those of several layers are not stored, see `require_storable`."""
        raise UsageError(f"{self.folder} holds the relations of one layer, layer {self.key.layer}; remove the cache")

    def _read(self, documents: np.ndarray) -> dict[str, Tensor]:
        """The stored rows of documents, one after the other; each file is opened once."""
        ends = np.cumsum(self.lengths[documents], dtype=np.int64)
        read = {
            name: torch.empty((int(ends[-1]), *array.shape[1:]), dtype=_TORCH_TYPES[array.dtype])
            for name, array in self._arrays[0].items()
        }
        into = {name: rows.view(torch.uint8).numpy() for name, rows in read.items()}
        numbers = np.searchsorted(self._firsts, documents, side="right") - 1
        for number in np.unique(numbers).tolist():
            pieces = []
            for place in np.flatnonzero(numbers == number).tolist():
                length, document = int(self.lengths[documents[place]]), int(documents[place])
                row = int(self._starts[document] - self._starts[self._firsts[number]])
                for name, array in self._arrays[number].items():
                    target = into[name][int(ends[place]) - length : int(ends[place])]
                    pieces.append((array.start + row * target.shape[1], target))
            assert self._manifest is not None
            read_pieces(self.folder / self._manifest.parts[number].file, sorted(pieces, key=lambda piece: piece[0]))
        return read
