"""Build a corpus: stream texts from files into token shards.

In: input files and a tokenizer. Out: a new folder with shards and a manifest, created atomically.
Memory is bounded by a few batches of texts in flight and one open shard. The output bytes do not depend on the
number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minilm.corpus.settings import CorpusSettings
from minilm.corpus.shards import DTYPES, MANIFEST_NAME, ShardInfo, ShardManifest, shard_name
from minilm.corpus.tokenizing import Int32s, TokenizedBatch, batches, tokenize_here, tokenize_in_workers
from minilm.errors import DataError, UsageError
from minilm.files.atomic import atomic_folder
from minilm.files.formats import ByteMeter
from minilm.files.json import write_json
from minilm.files.regular import sha256_file
from minilm.files.source import Source
from minilm.files.tensors import write_arrays
from minilm.files.texts import BAD_ROWS, EMPTY_FILES, EMPTY_TEXTS, read_texts
from minilm.tally import Tally
from minilm.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """Progress of a build; bytes are those of the input files on disk; standard input does not count."""

    bytes_done: int
    bytes_total: int
    texts: int
    documents: int
    tokens: int


def build_shards(
    inputs: Sequence[Source],
    *,
    tokenizer: Path,
    out: Path,
    max_tokens: int = CorpusSettings.max_tokens,
    field: str = CorpusSettings.field,
    shard_tokens: int = 2**24,
    workers: int = CorpusSettings.workers,
    max_bad_rows: float = CorpusSettings.max_bad_rows,
    tally: Tally | None = None,
    on_progress: Callable[[BuildProgress], None] | None = None,
) -> ShardManifest:
    """Tokenize the texts of the input files into a new corpus folder.

    Each text becomes one document of [CLS] + tokens + [SEP]; a text of more than `max_tokens` tokens is split into
    several documents.

    Args:
        inputs: .txt, .jsonl, .json, .csv, .tsv (each optionally .gz) or .parquet files, or standard input.
        tokenizer: model folder, tokenizer.json or vocab.txt.
        out: folder to create; must not exist or must be empty.
        max_tokens: max tokens per document, special tokens included.
        field: name of the text column (not used for .txt).
        shard_tokens: max tokens per shard file.
        workers: number of tokenizing processes; 1 tokenizes in this process, with threads on all cores.
        max_bad_rows: max share of all rows that may be bad; judged after the last row.
        tally: collects what was skipped.
        on_progress: called after every batch of texts.

    Raises:
        UsageError: an argument is invalid, or `out` exists.
        DataError: an input file or the tokenizer is damaged, no text was found, or too many rows are bad.
        SystemProblem: the disk is full, `out` cannot be written, or a worker died.
    """
    # rejects values out of range
    CorpusSettings(field=field, max_tokens=max_tokens, workers=workers, max_bad_rows=max_bad_rows)
    _check_arguments(inputs, shard_tokens=shard_tokens)
    tally = Tally() if tally is None else tally
    meter = ByteMeter()
    texts = read_texts(inputs, field=field, max_bad_rows=max_bad_rows, tally=tally, meter=meter)
    bytes_total = sum(path.stat().st_size for path in inputs if isinstance(path, Path))
    loaded = Tokenizer.load(tokenizer)
    with (
        closing(_tokenize(texts, loaded, tokenizer, max_tokens=max_tokens, workers=workers)) as tokenized,
        atomic_folder(out) as folder,
    ):
        writer = _ShardWriter(folder=folder, dtype=_smallest_dtype(loaded.vocab_size), shard_tokens=shard_tokens)
        for batch in tokenized:
            writer.add(batch)
            if on_progress is not None:
                on_progress(writer.progress(bytes_done=meter.done, bytes_total=bytes_total))
        writer.close_shard()
        tally.add(EMPTY_TEXTS, [], count=writer.empty_texts)
        if not writer.shards:
            raise DataError(_nothing_found(inputs, field, tally))
        manifest = writer.manifest(loaded, max_tokens=max_tokens, tally=tally)
        write_json(folder / MANIFEST_NAME, manifest.to_json())
    tally.report()
    return manifest


def _tokenize(
    texts: Iterator[str], loaded: Tokenizer, path: Path, *, max_tokens: int, workers: int
) -> Generator[TokenizedBatch, None, None]:
    if workers == 1:
        return (tokenize_here(loaded, batch, max_tokens=max_tokens) for batch in batches(texts))
    return tokenize_in_workers(texts, tokenizer=path, max_tokens=max_tokens, workers=workers)


def _check_arguments(inputs: Sequence[Source], *, shard_tokens: int) -> None:
    if not inputs:
        raise UsageError("no input files; give at least one")
    if shard_tokens < 1:
        raise UsageError(f"shard_tokens is {shard_tokens}; expected 1 or more")


def _smallest_dtype(vocab_size: int) -> str:
    return next(name for name, dtype in DTYPES.items() if vocab_size - 1 <= np.iinfo(dtype).max)


def _nothing_found(inputs: Sequence[Source], field: str, tally: Tally) -> str:
    skipped = "".join(f"; {sentence}" for what, sentence in tally.sentences().items() if what != EMPTY_FILES)
    return (
        f"no text found in {len(inputs)} input files (first: {inputs[0]})"
        f"{skipped}; check the files and the field name ({field!r})"
    )


@dataclass(kw_only=True)
class _ShardWriter:
    """Collects documents and writes a shard when the next document does not fit."""

    folder: Path
    dtype: str
    shard_tokens: int
    shards: list[ShardInfo] = field(default_factory=list)
    texts: int = 0
    empty_texts: int = 0
    documents: int = 0
    tokens: int = 0
    _token_ids: list[np.ndarray[tuple[int], np.dtype[np.generic]]] = field(default_factory=list)
    _lengths: list[Int32s] = field(default_factory=list)
    _free: int = 0

    def __post_init__(self) -> None:
        self._free = self.shard_tokens

    def add(self, batch: TokenizedBatch) -> None:
        """Add the documents of a batch, closing shards as they fill up."""
        for token_ids, lengths in self._fitting(batch):
            self._token_ids.append(token_ids.astype(DTYPES[self.dtype]))
            self._lengths.append(lengths)
            self._free -= len(token_ids)
        self.texts += batch.texts
        self.empty_texts += batch.empty_texts
        self.documents += len(batch.lengths)
        self.tokens += len(batch.token_ids)

    def _fitting(self, batch: TokenizedBatch) -> Iterator[tuple[Int32s, Int32s]]:
        """Yield runs of documents that fit the open shard; close it when a document does not fit."""
        ends = np.cumsum(batch.lengths, dtype=np.int64)
        first, used = 0, 0
        while first < len(ends):
            stop = int(np.searchsorted(ends, used + self._free, side="right"))
            if stop == first and not self._lengths:
                stop = first + 1  # a document longer than a shard gets its own shard
            if stop > first:
                end = int(ends[stop - 1])
                yield batch.token_ids[used:end], batch.lengths[first:stop]
                first, used = stop, end
            if first < len(ends):
                self.close_shard()

    def close_shard(self) -> None:
        """Write the open shard, unless it is empty, and start the next."""
        if not self._lengths:
            return
        token_ids, lengths = np.concatenate(self._token_ids), np.concatenate(self._lengths)
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
        path = self.folder / shard_name(len(self.shards))
        write_arrays(path, {"token_ids": token_ids, "offsets": offsets})
        self.shards.append(
            ShardInfo(file=path.name, documents=len(lengths), tokens=len(token_ids), sha256=sha256_file(path))
        )
        self._token_ids, self._lengths, self._free = [], [], self.shard_tokens

    def progress(self, *, bytes_done: int, bytes_total: int) -> BuildProgress:
        return BuildProgress(
            bytes_done=bytes_done,
            bytes_total=bytes_total,
            texts=self.texts,
            documents=self.documents,
            tokens=self.tokens,
        )

    def manifest(self, tokenizer: Tokenizer, *, max_tokens: int, tally: Tally) -> ShardManifest:
        return ShardManifest(
            tokenizer=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            dtype=self.dtype,
            max_tokens=max_tokens,
            texts=self.texts - self.empty_texts,
            documents=self.documents,
            tokens=self.tokens,
            bad_rows=tally[BAD_ROWS].count,
            empty_texts=tally[EMPTY_TEXTS].count,
            shards=tuple(self.shards),
        )
