"""Token shards: format and reader of a built corpus.

In: a folder with manifest.json and shard-00000.safetensors, shard-00001.safetensors, ...
Out: `Shards`, a sequence of documents (token ids read from memory-mapped files) with known lengths.
A shard contains `token_ids` (uint16 or uint32, flat) and `offsets` (int64, documents + 1): document i of the
shard is token_ids[offsets[i]:offsets[i + 1]], including its first and last special token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minilm.errors import DataError
from minilm.files.checked import Count, from_json
from minilm.files.json import read_json
from minilm.files.regular import sha256_file
from minilm.files.tensors import map_arrays

MANIFEST_NAME = "manifest.json"
DTYPES: dict[str, np.dtype[np.uint16] | np.dtype[np.uint32]] = {
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
}
_HOW_TO_FIX = "rebuild the corpus: remove its folder, then repeat 'minilm corpus build', or the run that built it"


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard file: its name, size, and the SHA-256 of its bytes."""

    file: str
    documents: Count
    tokens: Count
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """Description of a built corpus; corpora with equal fingerprints have equal contents.

    Attributes:
        tokenizer: fingerprint of the tokenizer.
        vocab_size: its number of tokens; every token id is smaller.
        dtype: "uint16" or "uint32", the storage type of token ids.
        max_tokens: max tokens per document, special tokens included.
        texts: number of texts read; a long text becomes several documents.
        documents: number of documents in all shards.
        tokens: number of tokens in all shards, special tokens included.
        bad_rows: number of skipped input rows.
        empty_texts: number of skipped texts without any token.
        shards: the files, in order.
    """

    tokenizer: str
    vocab_size: Count
    dtype: str
    max_tokens: Count
    texts: Count
    documents: Count
    tokens: Count
    bad_rows: Count
    empty_texts: Count
    shards: tuple[ShardInfo, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines what a training run reads."""
        content = self.to_json()
        for name in ("texts", "bad_rows", "empty_texts"):
            del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, object]:
        """Return plain values for JSON; the inverse of `read`."""
        return {**asdict(self), "shards": [asdict(shard) for shard in self.shards]}

    @classmethod
    def read(cls, value: Mapping[str, object], *, where: str) -> ShardManifest:
        """Validate plain values and build the manifest.

        Raises:
            DataError: a value is missing, unknown, of the wrong type, or inconsistent with the others.
        """
        manifest = from_json(cls, value, where=where, remedy=_HOW_TO_FIX)
        manifest._check(where)
        return manifest

    def _check(self, where: str) -> None:
        problems = [
            (self.dtype not in DTYPES, f"dtype is {self.dtype!r}, expected {' or '.join(DTYPES)}"),
            (
                not self.shards or any(shard.documents < 1 for shard in self.shards),
                "a shard has no documents",
            ),
            (
                self.documents != sum(shard.documents for shard in self.shards)
                or self.tokens != sum(shard.tokens for shard in self.shards),
                "documents and tokens differ from the sums over the shards",
            ),
            (
                any(shard.file != shard_name(number) for number, shard in enumerate(self.shards)),
                f"shard files are not named {shard_name(0)}, {shard_name(1)}, ...",
            ),
        ]
        for found, text in problems:
            if found:
                raise DataError(f"{where}: {text}; {_HOW_TO_FIX}")


def shard_name(number: int) -> str:
    """Return the file name of shard `number` (0-based)."""
    return f"shard-{number:05d}.safetensors"


class Shards:
    """A built corpus, opened for reading: `len()`, `.lengths`, and `[i]` for the token ids of a document."""

    def __init__(
        self,
        manifest: ShardManifest,
        *,
        token_ids: list[npt.NDArray[np.generic]],
        offsets: list[npt.NDArray[np.int64]],
    ) -> None:
        """Use `Shards.open`."""
        self.manifest = manifest
        self._token_ids = token_ids
        self._offsets = offsets
        self._first_documents = np.cumsum([0, *(shard.documents for shard in manifest.shards)])
        self._lengths = np.concatenate([np.diff(part) for part in offsets]).astype(np.int32)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of every document, int32 [documents]."""
        return self._lengths

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Shards:
        """Open a built corpus; token ids are read from disk on access.

        Args:
            folder: output folder of `minilm corpus build`.
            verify: also read every byte and compare checksums.

        Raises:
            DataError: the folder is not a built corpus, or a file does not match the manifest.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise DataError(f"{folder}: no {MANIFEST_NAME}, so this is not a built corpus; {_HOW_TO_FIX}")
        manifest = ShardManifest.read(read_json(path), where=str(path))
        token_ids, offsets = [], []
        for shard in manifest.shards:
            arrays = _open_shard(folder / shard.file, shard, manifest, verify=verify)
            token_ids.append(arrays[0])
            offsets.append(arrays[1])
        return cls(manifest, token_ids=token_ids, offsets=offsets)

    def __len__(self) -> int:
        """Return the number of documents."""
        return self.manifest.documents

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        """Return the token ids of document `index`, int32 [length], special tokens included."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of a corpus of {len(self)}")
        number = int(np.searchsorted(self._first_documents, index, side="right")) - 1
        start, stop = self._offsets[number][index - self._first_documents[number] :][:2]
        return self._token_ids[number][start:stop].astype(np.int32)


def _open_shard(
    path: Path, shard: ShardInfo, manifest: ShardManifest, *, verify: bool
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.int64]]:
    if not path.is_file():
        raise DataError(f"{path}: missing, but listed in {MANIFEST_NAME}; {_HOW_TO_FIX}")
    if verify and sha256_file(path) != shard.sha256:
        raise DataError(f"{path}: the contents do not match the checksum in {MANIFEST_NAME}; {_HOW_TO_FIX}")
    arrays = map_arrays(path)
    if set(arrays) != {"token_ids", "offsets"}:
        raise DataError(f"{path}: found {sorted(arrays)}, expected token_ids and offsets; {_HOW_TO_FIX}")
    token_ids, offsets = arrays["token_ids"], np.asarray(arrays["offsets"])
    if (token_ids.dtype, token_ids.shape, offsets.dtype, offsets.shape) != (
        DTYPES[manifest.dtype],
        (shard.tokens,),
        np.dtype(np.int64),
        (shard.documents + 1,),
    ):
        raise DataError(f"{path}: sizes or types do not match {MANIFEST_NAME}; {_HOW_TO_FIX}")
    lengths = np.diff(offsets)
    limit = manifest.max_tokens
    if offsets[0] != 0 or offsets[-1] != shard.tokens or lengths.min() < 1 or lengths.max() > limit:
        raise DataError(f"{path}: the offsets do not delimit documents of 1 to {limit} tokens; {_HOW_TO_FIX}")
    return token_ids, offsets
